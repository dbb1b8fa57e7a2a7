"""`siding rollback`: optimisations switched off, or Siding routed around; and a drill of both.

- `switches` pure: which flags an order changes, what shows that they are changed, how to undo it
- `act`      flips them at admin listeners and sees that it shows
- `around`   the steps that lead traffic past Siding on Railway, and who performs them
- `drill`    all of it on the local stack under load, with what was lost and how long it took
- `command`  the command line
"""
