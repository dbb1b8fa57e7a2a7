"""An example origin: a small HTTP service that behaves as a typical Fastify or Express backend does.

It stands where the real service would, so that Siding can be tried, tested and measured without one. It knows
nothing of the proxy: what it answers, it would answer to any client.

- `app`        the routes in one table, and `make_app`
- `homework`   reports, homework, grading: private, slow, changing
- `public`     one small route for each kind of caching
- `transfers`  streams, uploads, echoes, WebSockets
- `logo`       an image with byte ranges
- `answers`    who asks, what was sent, conditional answers
- `school`     the data, without any HTTP

`python -m deploy.example_origin --port 3000` runs it; `GET /` lists what it answers.
"""

from __future__ import annotations

from deploy.example_origin.app import make_app

__all__ = ["make_app"]
