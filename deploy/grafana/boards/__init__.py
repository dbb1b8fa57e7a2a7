"""The dashboards, one file each."""

from __future__ import annotations

from deploy.grafana.boards.grading import GRADING
from deploy.grafana.boards.overview import OVERVIEW
from deploy.grafana.boards.pool import POOL
from deploy.grafana.boards.process import PROCESS
from deploy.grafana.boards.redis import TIER

BOARDS = (OVERVIEW, POOL, GRADING, TIER, PROCESS)
