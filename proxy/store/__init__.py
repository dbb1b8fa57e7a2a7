"""Where stored responses are kept, and what invalidates them.

base -- what a store must do.
memory -- in memory, within a budget of bytes; weight -- what a stored response takes of it.
invalidations -- which stored responses may no longer be used, without touching them.
"""
