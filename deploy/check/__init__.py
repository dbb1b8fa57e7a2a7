"""`siding check`: the plan's success criteria, measured against a live deployment.

- `requests`  what may be sent: read from a file, refused unless it is said to be safe
- `measure`   sends and times; knows no target
- `load`      the same requests through Siding and past it, for a while
- `monitor`   what the pool monitor says meanwhile, and of gradings
- `criteria`  pure: what was measured against the plan's targets
- `report`    pure: the verdicts as a table, JSON or Markdown
- `command`   the command line
"""
