"""Tests mirror the packages; `support` has what scenarios are made of, and `bench` measures.

They run in any order, on free ports, with clocks of their own, and a warning is an error.
"""

from __future__ import annotations

from hypothesis import settings

# how long an example takes depends on what else the machine does; failures are told with what reproduces them
settings.register_profile("siding", deadline=None, database=None, print_blob=True)
settings.load_profile("siding")
