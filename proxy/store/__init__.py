"""Where stored responses are kept, and what invalidates them.

memory -- in memory, within a budget of bytes; weight -- what a stored response takes of it.
invalidations -- which stored responses may no longer be used, without touching them.
sweeping -- those that nobody will be given any more make way.

With REDIS_URL, what replicas share (`replicas` puts it together):
record -- a stored response as octets; shared -- records, and the leases by which one asks the origin for all;
notices -- what others invalidate is invalid here, by the numbers of the log that all read (`config.bulletin`);
telling -- what this process tells that log, until it can be read there.
"""
