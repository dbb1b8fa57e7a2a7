"""Siding before a service for a long time, while all around it breaks: see `__main__`.

truth     what the service has, and what callers must not be told any more
service   the service: every answer says what it is of, and it fails when told to
clients   ask, change, and judge each answer
chaos     what breaks: Redis, the service, proxies, flags, purges
"""
