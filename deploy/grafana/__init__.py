"""Grafana's dashboards as code: `panels` says what is shown, `build` makes `dashboards/*.json` of it."""
