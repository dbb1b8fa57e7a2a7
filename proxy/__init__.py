"""The proxy: a shared HTTP cache in front of one origin, that can always be switched to plain pass-through.

    python -m proxy      __main__   settings -> serving
                         serving    listeners -> app (one process) or fleet (WORKERS > 1, over channel)
                         app        builds, starts, drains and stops a worker; nothing else constructs
                         loop       the event loop that each process runs on
                         siblings   the other workers, as each of them tells them
                         errors     what can go wrong, each with its status and its JSON

A request goes through `server`, which asks `policy` what to do and does it with `store` and `origin`:

    server/   protocol      the client's connection; the only file that touches aiohttp's internals
              parsed        what aiohttp has parsed, in our words
              ending        how connections end
              fast_path     hits from prepared octets, before any task is made
              express       requests that pass, without a task
              handler       the story of a request, in the order it happens: start here
              lookup        what the cache knows of it
              fetching      requests to the origin that may serve many
              write_through unsafe methods, and HEAD
              handing_on    passing on what the origin answered
              exchange      one request of a client, and the means to answer it
              sharing       what other replicas have, and whether this one asks the origin for all
              visit         one request on its way, and what all of them share
              answer        to the client: stored, whole, streamed, or an error
              forwarder     to the origin: for one client alone, or as a tunnel
              coding        gzip, br, zstd for whole contents and streams
              in_flight     how many requests are on their way
              admin         the admin listener; live, page: its live page; monitor asks the pool monitor for that
              local         what the public port answers itself; refusal: how a client is told what went wrong
    policy/   pure decisions over plain values (its own map is in `policy/__init__.py`)
    origin/   client        connections, their reuse, timeouts and errors; connection: one of them
              fetch         one request whose answer may serve many clients
              collapse      which requests wait for which fetch
    store/    memory        stored responses: S3-FIFO within a byte budget
              invalidations epochs: what was purged or changed since a response was asked for
              replicas      what replicas share in Redis: shared (records, leases), notices, telling (both: changes)
    observe/  events        one observation a request; metrics, access_log and, where they are on, traces read it
              briefs        those of the short ways, told in batches; tallies: what they are counted in

Imports point one way: app -> server -> {origin, store, observe} -> policy. `tests/test_laws.py` holds them to it.
"""
