"""The grading wrapper: OpenAI's API passed through, and known prompts made smaller on the way.

A request is read in this order:

- `serve`      what `/v1/*` answers; the shell around the rest
- `templates`  pure: is this a prompt we know, and the request with its compact form
- `answers`    pure: a template's full answer and its compact form, each from the other
- `expanding`  pure: the same while it streams
- `completions` asks, expands, asks again when that is not certain; `collapse` and `stored` before it
- `upstream`   every connection to the grading upstream, with its limits, retries and breaker
- `batch`      many at once, and the API of batches
- `tokens`, `accounting`  what it cost, and what it would have cost
- `quality`, `shadow`, `evaluate`  whether the grades are the same
"""
