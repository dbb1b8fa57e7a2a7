"""The file of named queries: every fault at once; parameters by their types."""

from __future__ import annotations

import contextlib
from datetime import UTC, date, datetime
from decimal import Decimal
from pathlib import Path
from uuid import UUID

import pytest
from hypothesis import given
from hypothesis import strategies as st

from config.toml_file import FileError
from deploy.parts import EXAMPLE_QUERIES
from pool_monitor.queries import ArgumentError, Parameter, Query, load_queries


def load(tmp_path: Path, text: str) -> dict[str, Query]:
    path = tmp_path / "queries.toml"
    path.write_text(text)
    return load_queries(path)


def test_the_example() -> None:
    queries = load_queries(EXAMPLE_QUERIES)
    assert queries["report-exists"].statement() == "SELECT EXISTS (SELECT 1 FROM parent_reports WHERE user_id = $1)"
    assert queries["latest-reports"].arguments({"count": 3, "userId": "ann"}) == ["ann", 3]
    assert queries["add-report"].write


def test_every_fault_is_told_at_once(tmp_path: Path) -> None:
    text = """
    colour = 1
    [[query]]
    name = "a b"
    sql = 5
    parameters = ["x", "y: strange"]
    ttl = -1
    wirte = true
    [[query]]
    name = "one"
    sql = "SELECT 1"
    bytes = "2 barns"
    exists = true
    write = true
    [[query]]
    name = "one"
    sql = '''
      -- all of it
      /* once a day */ copy a TO STDOUT
    '''
    bytes = 0
    """
    with pytest.raises(FileError) as raised:
        load(tmp_path, text)
    told = str(raised.value)
    for words in (
        "colour: this key is not known",
        "query 1 ('a b'): name:",
        "sql: 5 cannot be used",
        "'x' is not \"name: type\"",
        "'y: strange'",
        "ttl: -1 is not a number",
        "bytes: '2 barns' is not a size like 64MiB, from 1 byte to 1 TiB",
        "bytes: 0 is not a size",
        "sql: COPY brings no rows",
        "wirte: this key is not known; did you mean write?",
        "cannot be an existence check",
        "another query is called so",
    ):
        assert words in told, told


def test_sizes(tmp_path: Path) -> None:
    text = "".join(
        f'[[query]]\nname = "{name}"\nsql = "SELECT 1"\n{more}\n'
        for name, more in (("none", ""), ("number", "bytes = 5"), ("text", 'bytes = "2 MiB"'))
    )
    sizes = {name: query.octets for name, query in load(tmp_path, text).items()}
    assert sizes == {"none": None, "number": 5, "text": 2 * 1024 * 1024}


@pytest.mark.parametrize("text", ["[query]\nname = 1", "[[query", ""])
def test_files_that_are_no_list_of_queries(tmp_path: Path, text: str) -> None:
    if text:
        with pytest.raises(FileError):
            load(tmp_path, text)
    else:
        assert load(tmp_path, text) == {}
    with pytest.raises(FileError, match="cannot be read"):
        load_queries(tmp_path / "nowhere.toml")


@pytest.mark.parametrize(
    ("kind", "given_value", "expected"),
    [
        ("text", "a", "a"),
        ("integer", 5, 5),
        ("integer", "5", 5),
        ("bigint", 2**60, 2**60),
        ("double", 1, 1.0),
        ("double", "1.5", 1.5),
        ("numeric", "1.10", Decimal("1.10")),
        ("boolean", True, True),
        ("boolean", "false", False),
        ("uuid", "6f1d0ec0-0000-4000-8000-000000000001", UUID("6f1d0ec0-0000-4000-8000-000000000001")),
        ("date", "2026-01-31", date(2026, 1, 31)),
        ("timestamptz", "2026-01-31T12:00:00Z", datetime(2026, 1, 31, 12, tzinfo=UTC)),
        ("timestamp", "2026-01-31T12:00:00", datetime(2026, 1, 31, 12)),
        ("numeric", Decimal("12345678901234567890.5"), Decimal("12345678901234567890.5")),
        ("numeric", 10**30, Decimal(10**30)),
        ("numeric", "-1.5E3", Decimal(-1500)),
        ("double", Decimal("0.1"), 0.1),
        ("double", "-Infinity", float("-inf")),
        ("jsonb", {"a": [1]}, '{"a": [1]}'),
        ("jsonb", [Decimal("1.10"), 10**30, "é", None, True], f'[1.10, {10**30}, "\\u00e9", null, true]'),
        ("jsonb", '{"a":1}', '"{\\"a\\":1}"'),
        ("integer[]", [1, None, "2"], [1, None, 2]),
        ("text[]", ["a,b"], ["a,b"]),
        ("text", None, None),
    ],
)
def test_values(kind: str, given_value: object, expected: object) -> None:
    assert Parameter("p", kind).convert(given_value) == expected


@pytest.mark.parametrize(
    ("kind", "given_value"),
    [
        ("text", 5),
        ("text", "a\0b"),
        ("integer", "x"),
        ("integer", 1.5),
        ("integer", Decimal("1.0")),
        ("integer", "1_000"),
        ("integer", " 7 "),
        ("integer", "\u0663"),
        ("double", "1_0.5"),
        ("double", "1e400"),
        ("double", 10**400),
        ("numeric", "sNaN"),
        ("numeric", "1_0"),
        ("numeric", Decimal("1e999999999")),
        ("integer", True),
        ("bigint", 2**63),
        ("bigint", "-9223372036854775809"),
        ("double", True),
        ("numeric", "x"),
        ("numeric", []),
        ("boolean", 1),
        ("uuid", "x"),
        ("date", "31.1.2026"),
        ("timestamptz", "2026-01-31T12:00:00"),
        ("timestamp", "2026-01-31T12:00:00Z"),
        ("integer[]", 5),
        ("integer[]", ["x"]),
        # JSON has arrays of its own
        ("text[]", "Doe, Jane"),
    ],
)
def test_values_that_do_not_fit(kind: str, given_value: object) -> None:
    query = Query("q", "SELECT $1", (Parameter("p", kind),))
    with pytest.raises(ArgumentError, match="'p' is not of the type"):
        query.arguments({"p": given_value})


@pytest.mark.parametrize("kind", ["double", "numeric"])
def test_numbers_that_are_none_have_keys_of_their_own(kind: str) -> None:
    query = Query("q", "SELECT $1", (Parameter("p", kind),))
    given_values = ("NaN", "Infinity", "-Infinity", None, "1", "0", "-0.0")
    keys = [query.key(query.arguments({"p": value})) for value in given_values]
    assert len(set(keys)) == len(keys)
    assert query.key(query.arguments({"p": "NaN"})) == keys[0]


def test_values_have_keys_with_their_types_and_stay_secret() -> None:
    query = Query("q", "SELECT $1", (Parameter("p", "text"),))
    keys = [query.key(values) for values in ([1], ["1"], [True], [None], ["None"], [[1]], [1.0], [Decimal(1)], [1, 1])]
    asked = (Query("r", "SELECT $1"), Query("q", "SELECT $1 + 1"), Query("q", "SELECT $1", exists=True))
    keys += [other.key([1]) for other in (*asked, Query("q", "SELECT $1", (Parameter("p", "bigint"),)))]
    assert len(set(keys)) == len(keys)
    assert {len(query.key(["secret" * size])) for size in (1, 10_000)} == {40}
    assert "secret" not in query.key(["secret"])


def test_what_comes_by_url_is_text() -> None:
    query = Query("q", "SELECT $1", (Parameter("a", "jsonb"), Parameter("b", "jsonb[]"), Parameter("c", "integer[]")))
    given_values = {"a": '{"x": 1.10}', "b": "[1, {}]", "c": "1,2"}
    assert query.arguments(given_values, as_text=True) == ['{"x": 1.10}', ["1", "{}"], [1, 2]]
    with pytest.raises(ArgumentError, match=r"'b' is not of the type jsonb\[\]"):
        query.arguments(given_values | {"b": '"1,2"'}, as_text=True)
    for bad in ("", "{", "NaN", "[" * 5000, "[" * 100_000 + "]" * 100_000):
        with pytest.raises(ArgumentError, match="'a' is not of the type jsonb"):
            query.arguments(given_values | {"a": bad}, as_text=True)


def test_a_comment_does_not_swallow_the_parenthesis() -> None:
    assert Query("q", "SELECT 1 -- any?", exists=True).statement() == "SELECT EXISTS (SELECT 1 -- any?\n)"


@given(st.dictionaries(st.text(), st.none() | st.integers() | st.text() | st.lists(st.integers())))
def test_no_arguments_raise_anything_else(arguments: dict[str, object]) -> None:
    query = Query("q", "SELECT $1, $2", (Parameter("a", "integer"), Parameter("b", "timestamptz[]")))
    with contextlib.suppress(ArgumentError):
        assert len(query.arguments(arguments)) == 2
