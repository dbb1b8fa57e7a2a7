"""The settings in words."""

from __future__ import annotations

from pathlib import Path

import pytest

from config.describe import TABLES, allowed, default, main, settings_table, with_tables
from config.settings import ProxySettings

FIELDS = ProxySettings.model_fields


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("port", "a whole number from 0 to 65535"),
        ("upstream_timeout_ms", "milliseconds, a whole number from 1 to 86400000"),
        ("drain_seconds", "seconds, a number from 0 to 86400"),
        ("max_request_bytes", "bytes, or a size like 256MiB or 8 MB, from 1 byte to 1 TiB"),
        ("log_format", "json or text"),
    ],
)
def test_what_is_allowed_has_unit_and_bounds(name: str, words: str) -> None:
    assert allowed(FIELDS[name]) == words


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("upstream_url", "required"),
        ("admin_token", "none"),
        ("host", "::"),
        ("cache_max_bytes", "256 MiB"),
        ("cache_max_object_bytes", "8 MiB"),
        ("cache_ttl_seconds", "300"),
        ("public_metrics", "false"),
    ],
)
def test_defaults_are_written_as_an_operator_would(name: str, words: str) -> None:
    assert default(FIELDS[name]) == words


def test_every_setting_has_a_row_and_the_flags_come_last() -> None:
    rows = settings_table(ProxySettings).splitlines()[2:]
    names = [row.split("`")[1] for row in rows]
    assert sorted(names) == sorted(name.upper() for name in FIELDS)
    assert names[0] == "UPSTREAM_URL"
    assert names[-1] == "BYPASS"
    assert all(row.count(" | ") == 3 for row in rows)


def test_tables_are_written_between_their_markers() -> None:
    before = "a\n<!-- settings:proxy -->\nold\n<!-- /settings:proxy -->\nb\n"
    after = with_tables(before)
    assert after == f"a\n<!-- settings:proxy -->\n{settings_table(TABLES['proxy'])}\n<!-- /settings:proxy -->\nb\n"
    assert with_tables(after) == after


def test_a_table_that_there_is_not() -> None:
    with pytest.raises(ValueError, match="did you mean proxy"):
        with_tables("<!-- settings:prox -->\n<!-- /settings:prox -->")


def test_documents_are_brought_up_to_date(tmp_path: Path) -> None:
    document = tmp_path / "README.md"
    document.write_text("<!-- settings:proxy --><!-- /settings:proxy -->")
    assert main([str(document)]) == 0
    assert settings_table(ProxySettings) in document.read_text()


def test_a_document_that_there_is_not_is_said_in_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([str(tmp_path / "nope.md")]) == 1
    [line] = capsys.readouterr().err.splitlines()
    assert "No such file" in line
