"""The version, said once: packaging, `--version` and the metrics read it here."""

VERSION = "0.1.0"
