"""A table of reports, and the queries of a monitor that reads it."""

from __future__ import annotations

QUERIES = """
[[query]]
name = "reports"
sql = "SELECT id, title FROM reports WHERE user_id = $1 ORDER BY id"
parameters = ["userId: text"]
ttl = 300
tags = ["reports"]

[[query]]
name = "has-report"
sql = "SELECT 1 FROM reports WHERE user_id = $1"
parameters = ["userId: text"]
exists = true
ttl = 0

[[query]]
name = "slow"
sql = "SELECT pg_sleep($1)"
parameters = ["seconds: double"]
timeout_ms = 100
ttl = 0

[[query]]
name = "many"
sql = "SELECT i FROM generate_series(1, $1) AS i"
parameters = ["n: integer"]
rows = 1000
ttl = 0

[[query]]
name = "add"
sql = "INSERT INTO reports (user_id, title) VALUES ($1, $2) RETURNING id"
parameters = ["userId: text", "title: text"]
write = true

[[query]]
name = "sneaky"
sql = "INSERT INTO reports (user_id, title) VALUES ('x', 'y') RETURNING id"

[[query]]
name = "divide"
sql = "SELECT 1 / $1::int AS q"
parameters = ["by: integer"]
ttl = 0

[[query]]
name = "hold"
sql = "SELECT pg_sleep($1)"
parameters = ["seconds: double"]
ttl = 0
"""

TABLE = (
    "CREATE TABLE reports (id serial PRIMARY KEY, user_id text NOT NULL, title text); CREATE INDEX ON reports (user_id)"
)
