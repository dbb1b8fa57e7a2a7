"""The pool monitor: a tuned asyncpg pool that tells the truth about itself.

serving      what happens once the settings are read
app          composition root: builds, starts, stops
endpoints    what is asked over HTTP
callers      connections of those who ask
admission    first come, first served: who may have a connection, counted and timed
pool         the asyncpg pool behind it: warmth, age, faults, recovery
incoming     bounds what comes on a connection
faults       pure: what a database may raise, and how it is told
pool_stats   pure: numbers -> the JSON, the verdict, the advice
observe      metrics
traces       spans of the pool, where traces are on; request_traces those of requests
server_stats what the server says of itself, sampled on a connection apart
queries      named queries: the file, the parameters
runner       runs them
results      rows as JSON
query_cache  answers kept for a while, until their tables change; kept holds them within a budget
replicas     answers shared with other monitors of the same database
changes      hearing of that from the database; triggers has tables tell
tables       which tables a query reads, and whether they tell; finder finds that out for each, again and again
following    what is followed over a connection of its own
proxy_tags   telling the proxy
pgbouncer    a PgBouncer's own numbers
doctor       known traps, looked for one by one
advisor/     COUNT checks that should be EXISTS
grading/     the wrapper before the grading upstream; a map of its own
"""
