"""Siding for a long time, while all around it breaks: `__main__` the proxies, `monitors` the pool monitors.

truth             what there is, and what callers must not be told any more
process           a service under test, and what it takes up
crowd             callers that ask on and on
service           behind the proxies: every answer says what it is of, and it fails when told to
clients           ask the proxies, change, and judge each answer
chaos             what breaks: Redis, the service, proxies, flags, purges
monitor_callers   ask the monitors, change, and judge each answer
monitor_upstream  grades for the monitors, and fails when told to
"""
