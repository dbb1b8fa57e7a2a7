"""What field values say, valid and not."""

from __future__ import annotations

from datetime import UTC, datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from proxy.policy.fields import (
    FOREVER,
    ETag,
    format_date,
    parse_age,
    parse_content_range,
    parse_date,
    parse_dictionary,
    parse_directives,
    parse_etag,
    parse_etags,
    parse_strings,
    parse_weights,
    split_list,
    strong_match,
    valid_token,
    weak_match,
)

ANY_TEXT = st.text(st.characters(max_codepoint=255)) | st.text()
LIST_TEXT = st.text(st.sampled_from('",;=\\ \tqW/*ab019.é'))


def at(*date: int) -> float:
    return datetime(*date, tzinfo=UTC).timestamp()  # type: ignore[misc, arg-type]


@pytest.mark.parametrize(
    ("value", "members"),
    [
        ("", []),
        (" , ,\t,", []),
        ("a", ["a"]),
        ("a, b ,c", ["a", "b", "c"]),
        ("a b, c", ["a b", "c"]),
        ('a="x, y", b', ['a="x, y"', "b"]),
        (r'a="x\", y", b', [r'a="x\", y"', "b"]),
        (r'a="x\\", b', [r'a="x\\"', "b"]),
        (r"a\, b", ["a\\", "b"]),
        (r"a\,b,c", ["a\\", "b", "c"]),
        ('a="x, y', ['a="x', "y"]),
        ('a="x, y", b="z, no-store', ['a="x, y"', 'b="z', "no-store"]),
        (r'a="x\", no-store', [r'a="x\"', "no-store"]),
        ('"', ['"']),
        ("é, \xa0", ["é", "\xa0"]),
    ],
)
def test_a_list_is_split_at_commas_outside_quoted_strings(value: str, members: list[str]) -> None:
    assert split_list(value) == members


@given(st.lists(st.text(st.sampled_from("abé\\=;'"), min_size=1)), st.sampled_from([",", ", ", " ,", ",,", ", ,\t"]))
def test_what_is_joined_can_be_split(members: list[str], comma: str) -> None:
    assert split_list(comma.join(members)) == members


@pytest.mark.parametrize(
    ("text", "valid"),
    [
        ("a", True),
        ("X-Abc_1~", True),
        ("!#$%&'*+-.^_`|~", True),
        ("", False),
        ("a b", False),
        ("é", False),
        ("a:", False),
    ],
)
def test_tokens(text: str, valid: bool) -> None:
    assert valid_token(text) is valid


# -- dates


@pytest.mark.parametrize(
    ("value", "seconds"),
    [
        ("Sun, 06 Nov 1994 08:49:37 GMT", 784_111_777),
        ("Sunday, 06-Nov-94 08:49:37 GMT", 784_111_777),
        ("Sun Nov  6 08:49:37 1994", 784_111_777),
        ("Sun Nov 16 08:49:37 1994", 784_111_777 + 10 * 86_400),
        ("Thu, 01 Jan 1970 00:00:00 GMT", 0),
        ("Wed, 31 Dec 1969 23:59:59 GMT", -1),
        ("Thu, 29 Feb 2024 00:00:00 GMT", at(2024, 2, 29)),
        ("Sat, 31 Dec 2016 23:59:60 GMT", at(2017, 1, 1)),
        ("Mon, 06 Nov 1994 08:49:37 GMT", 784_111_777),
        ("Sun, 21 Nov 2286 04:46:39 GMT", at(2286, 11, 21, 4, 46, 39)),
        ("Fri, 31 Dec 9999 23:59:59 GMT", at(9999, 12, 31, 23, 59, 59)),
    ],
)
def test_the_three_forms_of_a_date(value: str, seconds: float) -> None:
    assert parse_date(value) == seconds


@pytest.mark.parametrize(
    "value",
    [
        "",
        "0",
        "-1",
        "foo",
        "1994-11-06T08:49:37Z",
        "SUN, 06 Nov 1994 08:49:37 GMT",
        "Sun, 06 NOV 1994 08:49:37 GMT",
        "Sun, 06 Nov 1994 08:49:37 gmt",
        "Sun, 06 Nov 1994 08:49:37 UTC",
        "Sun, 06 Nov 1994 08:49:37 AEST",
        "Sun, 06 Nov 1994 08:49:37 +0000",
        "Sun, 06 Nov 1994 08:49:37",
        "Sun, 06 Nov 94 08:49:37 GMT",
        "Sun 06 Nov 1994 08:49:37 GMT",
        "Sun, 06  Nov  1994 08:49:37 GMT",
        "Sun, 6 Nov 1994 08:49:37 GMT",
        "Sun, 06-Nov-1994 08:49:37 GMT",
        "Sun, 06 Nov 1994 08.49.37 GMT",
        "Sun, 06 Nov 1994 8:49:37 GMT",
        "Sun, 06 Nov 1994 24:00:00 GMT",
        "Sun, 06 Nov 1994 08:60:37 GMT",
        "Sun, 06 Nov 1994 08:49:61 GMT",
        "Sun, 00 Nov 1994 08:49:37 GMT",
        "Sun, 31 Nov 1994 08:49:37 GMT",
        "Wed, 29 Feb 2023 00:00:00 GMT",
        "Sun, 06 Nov 0000 08:49:37 GMT",
        "Sun, 06 Nov 1994 08:49:37 GMT ",
        " Sun, 06 Nov 1994 08:49:37 GMT",
        "Sun, 06 Nov 1994 08:49:37 GMT\n",
        "Sun, 06 Nov 1994 08:49:37 GMT, Sun, 06 Nov 1994 08:49:37 GMT",
        "Sun, 06-Nov-94 08:49:37 GMT",
        "Sunday, 06-Nov-1994 08:49:37 GMT",
        "Sun Nov 6 08:49:37 1994",
        "Sun Nov 06 08:49:37 1994 GMT",
        "Sun, ٠٦ Nov 1994 08:49:37 GMT",
    ],
)
def test_anything_else_is_no_date(value: str) -> None:
    assert parse_date(value) is None


@pytest.mark.parametrize(
    ("now", "digits", "year"),
    [
        (2026, "26", 2026),
        (2026, "50", 2050),
        (2026, "76", 2076),
        (2026, "77", 1977),
        (2026, "99", 1999),
        (2026, "00", 2000),
        (1999, "49", 1949),
        (1999, "99", 1999),
    ],
)
def test_two_digit_years_lie_at_most_fifty_years_ahead(now: int, digits: str, year: int) -> None:
    assert parse_date(f"Friday, 18-Aug-{digits} 02:01:18 GMT", at(now, 6, 1)) == at(year, 8, 18, 2, 1, 18)


@given(st.integers(int(at(1, 1, 1)), int(at(9999, 12, 31))), st.floats(0, 0.99))
def test_a_date_survives_the_round_trip(seconds: int, fraction: float) -> None:
    assert parse_date(format_date(seconds + fraction)) == seconds


def test_dates_are_written_as_imf_fixdate() -> None:
    assert format_date(784_111_777.9) == "Sun, 06 Nov 1994 08:49:37 GMT"
    assert format_date(-0.5) == "Wed, 31 Dec 1969 23:59:59 GMT"


# -- entity tags


@pytest.mark.parametrize(
    ("value", "tag"),
    [
        ('"a"', ETag(False, "a")),
        ('W/"a"', ETag(True, "a")),
        (' "a"\t', ETag(False, "a")),
        ('""', ETag(False, "")),
        ('"a,b"', ETag(False, "a,b")),
        ('"a\\"', ETag(False, "a\\")),
        ('"abcdef\xc3\xbc"', ETag(False, "abcdef\xc3\xbc")),
        ("", None),
        ("a", None),
        ("*", None),
        ('"a', None),
        ('a"', None),
        ('w/"a"', None),
        ('W\\"a"', None),
        ('W"a"', None),
        ('W/ "a"', None),
        ('"a b"', None),
        ('"a"b"', None),
        ('"a", "b"', None),
        ('"\x7f"', None),
        ('"\u0100"', None),
    ],
)
def test_an_entity_tag(value: str, tag: ETag | None) -> None:
    assert parse_etag(value) == tag


A, B, WEAK_A = ETag(False, "a"), ETag(False, "b"), ETag(True, "a")


@pytest.mark.parametrize(
    ("value", "tags"),
    [
        ("*", None),
        (" * ", None),
        ("", ()),
        (",,", ()),
        ('"a"', (A,)),
        ('"a", "b"', (A, B)),
        (' ,"a" , W/"a",\t"b",', (A, WEAK_A, B)),
        ('"a\\", "b"', (ETag(False, "a\\"), B)),
        ('"x,y", "b"', (ETag(False, "x,y"), B)),
        ('a, "b"', (B,)),
        ('"a" x, "b"', (B,)),
        ('*, "b"', (B,)),
        ('"b", "a', (B,)),
        ('"b", *', (B,)),
    ],
)
def test_a_list_of_entity_tags(value: str, tags: tuple[ETag, ...] | None) -> None:
    assert parse_etags(value) == tags


# RFC 9110 8.8.3.2, its table
@pytest.mark.parametrize(
    ("one", "other", "strong", "weak"),
    [
        (WEAK_A, WEAK_A, False, True),
        (WEAK_A, ETag(True, "b"), False, False),
        (WEAK_A, A, False, True),
        (A, WEAK_A, False, True),
        (A, A, True, True),
        (A, B, False, False),
    ],
)
def test_the_comparisons_of_entity_tags(one: ETag, other: ETag, strong: bool, weak: bool) -> None:
    assert strong_match(one, other) is strong
    assert weak_match(one, other) is weak


# -- Age and weights


@pytest.mark.parametrize(
    ("values", "age"),
    [
        ([], None),
        (["0"], 0),
        (["7200"], 7200),
        (["007200"], 7200),
        ([" 5\t"], 5),
        (["2147483647"], FOREVER - 1),
        (["2147483648"], FOREVER),
        (["99999999999"], FOREVER),
        (["9" * 6000], FOREVER),
        (["0" * 6000], 0),
        # what is invalid is ignored
        ([""], None),
        (["abc"], None),
        (["-7200"], None),
        (["+1"], None),
        (["7200.0"], None),
        (["1_0"], None),
        (["٣"], None),
        (["²"], None),
        (["7200;foo=bar"], None),
        (["7200;foo=111"], None),
        # and of several the first counts
        (["7200,0"], 7200),
        (["0 , 7200"], 0),
        (["0", "7200"], 0),
        (["7200", "0"], 7200),
        (["x", "7200"], None),
        ([",7200"], None),
    ],
)
def test_age(values: list[str], age: float | None) -> None:
    assert parse_age(values) == age


@pytest.mark.parametrize(
    ("value", "weights"),
    [
        ("", []),
        ("gzip", [("gzip", 1.0)]),
        ("GZIP;Q=0.5, br", [("gzip", 0.5), ("br", 1.0)]),
        ("gzip ; q=0 , *;q=0.001", [("gzip", 0.0), ("*", 0.001)]),
        ("a;q=1., b;q=0., c;q=1.000", [("a", 1.0), ("b", 0.0), ("c", 1.0)]),
        ("text/html;level=1;q=0.4", [("text/html", 0.4)]),
        ("a;q=1.1, b;q=-1, c;q=x, d;q=, e;q, f;q=0.1234, g;q=nan", [(name, 0.0) for name in "abcdefg"]),
        ("a;", [("a", 1.0)]),
    ],
)
def test_weights(value: str, weights: list[tuple[str, float]]) -> None:
    assert parse_weights(value) == weights


# -- cache directives


@pytest.mark.parametrize(
    ("value", "seconds"),
    [
        ("", None),
        ("no-store", None),
        ("x-max-age=5", None),
        ("max-age=3600", 3600),
        ("MaX-aGe=3600", 3600),
        ('max-age="3600"', 3600),
        (r'max-age="3\600"', 3600),
        ("max-age=003600", 3600),
        ("foobar, max-age=3600", 3600),
        ("max-age=2147483649", FOREVER),
        ("max-age=99999999999", FOREVER),
        ("max-age=" + "9" * 6000, FOREVER),
        ("max-age=0", 0),
        ("max-age", 0),
        ("max-age=", 0),
        ("max-age=-3600", 0),
        ("max-age='3600'", 0),
        ("max-age=3600.0", 0),
        ("max-age=a3600", 0),
        ("max-age=3600a", 0),
        ("max-age =3600", 0),
        ("max-age= 3600", 0),
        ('max-age="3600', 0),
        ("max-age=3600;x", 0),
        ("max-age=3600, max-age=1800", 3600),
        ("max-age=1, max-age=1800", 1),
        ("max-age=3600, max-age=x", 3600),
        ("max-age=x, max-age=3600", 0),
        ('extension="max-age=3600", max-age=1', 1),
        ('max-age=1, extension="max-age=3600"', 1),
        ('extension="max-age=3600", max-age="1"', 1),
        ('max-age="1", extension="max-age=3600"', 1),
        ('extension="max-age=3600"', None),
        (r'extension="\", max-age=3600"', None),
    ],
)
def test_a_directive_in_seconds(value: str, seconds: int | None) -> None:
    assert parse_directives([value]).seconds("max-age") == seconds
    assert parse_directives(["public", value]).seconds("max-age") == seconds


def test_directives_are_gathered_from_all_lines() -> None:
    directives = parse_directives(["No-StOrE, a=1", "", 'max-age=60, b="x, \\"y"', "a=2, max-age=5"])
    assert [name for name in ("no-store", "a", "b", "c", "max-age") if directives.has(name)] == [
        "no-store",
        "a",
        "b",
        "max-age",
    ]
    assert directives.arg("no-store") is None
    assert directives.arg("a") == "1"
    assert directives.arg("b") == 'x, "y'
    assert directives.arg("c") is None
    assert directives.seconds("max-age") == 60


@pytest.mark.parametrize(
    ("value", "names"),
    [
        ("max-age=1", ()),
        ("no-cache", ()),
        ('no-cache="a"', ("a",)),
        ('no-cache="A, b ,"', ("a", "b")),
        ("no-cache=a", ("a",)),
        ('no-cache="a", no-cache="b"', ("a", "b")),
        ('no-cache="a", no-cache', ()),
        ('no-cache=""', ()),
        ('no-cache="a', ()),
        ('no-cache="a b"', ()),
        ('no-cache ="a"', ()),
    ],
)
def test_the_fields_a_qualified_directive_lists(value: str, names: tuple[str, ...]) -> None:
    assert parse_directives([value]).names_in("no-cache") == names


@pytest.mark.parametrize(
    ("value", "found"),
    [
        ("private; max-age=60", {"private"}),
        ("max-age=60; No-Store", {"no-store"}),
        ("max-age=60, private;", {"private"}),
        ("max-age=60 private", {"private"}),
        ("no-cache no-store", {"no-cache", "no-store"}),
        ("max-age=60;must-revalidate", {"must-revalidate"}),
        ("public; max-age=60", set()),
        ("x-private; y=1", set()),
        ("private-x y", set()),
        ('a="x; private"', set()),
        ("a=private", set()),
        ("max-age=60, a:b", set()),
    ],
)
def test_what_is_parted_by_something_else_than_a_comma_forbids_what_it_names(value: str, found: set[str]) -> None:
    directives = parse_directives([value])
    names = ("private", "no-store", "no-cache", "must-revalidate", "proxy-revalidate", "public")
    assert {name for name in names if directives.has(name)} == found
    assert not any(directives.names_in(name) for name in found)


# -- structured fields and parts


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ([], ()),
        ([""], ()),
        (['"a"'], ("a",)),
        (['"a", "b;c"; x=1'], ("a", "b;c")),
        (['"a"', '"b"'], ("a", "b")),
        (["a"], ()),
        (['"a", 1'], ()),
        (['"a'], ()),
        (['("a" "b")'], ()),
    ],
)
def test_lists_of_strings(values: list[str], expected: tuple[str, ...]) -> None:
    assert parse_strings(values) == expected


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        ("bytes 0-4/10", (0, 4, 10)),
        ("bytes 9-9/10", (9, 9, 10)),
        (" bytes 0-0/1 ", (0, 0, 1)),
        ("bytes 5-4/10", None),
        ("bytes 0-10/10", None),
        ("bytes 0-4/*", None),
        ("bytes */10", None),
        ("bytes 0-4/10, bytes 5-9/10", None),
        ("items 0-4/10", None),
        ("bytes 0-4/" + "9" * 30, None),
        ("", None),
        (None, None),
    ],
)
def test_content_range(value: str | None, expected: tuple[int, int, int] | None) -> None:
    assert parse_content_range(value) == expected


# -- whatever the text


@given(ANY_TEXT | LIST_TEXT)
def test_no_parser_raises(text: str) -> None:
    assert all(member.strip(" \t") == member != "" for member in split_list(text))
    assert isinstance(valid_token(text), bool)
    date = parse_date(text)
    assert date is None or isinstance(date, float)
    tag = parse_etag(text)
    assert tag is None or '"' not in tag.opaque
    assert 0 <= (parse_age([text]) or 0) <= FOREVER
    members = parse_dictionary(text)
    assert members is None or all(name == name.lower() for name in members)
    assert all(isinstance(member, str) for member in parse_strings([text]))
    span = parse_content_range(text)
    assert span is None or 0 <= span[0] <= span[1] < span[2]
    assert all(0 <= weight <= 1 for _, weight in parse_weights(text))


@given(st.lists(ANY_TEXT | LIST_TEXT | st.builds("max-age={}".format, ANY_TEXT)))
def test_directives_of_any_text(values: list[str]) -> None:
    directives = parse_directives(values)
    seconds = directives.seconds("max-age")
    assert (seconds is None) is not directives.has("max-age")
    assert 0 <= (seconds or 0) <= FOREVER
    assert all(name == name.lower() for name in directives.names_in("no-cache"))


@given(st.lists(st.builds(ETag, st.booleans(), st.text(st.sampled_from("!,a\\é\xff")))))
def test_entity_tags_survive_a_list(tags: list[ETag]) -> None:
    written = [f'{"W/" if tag.weak else ""}"{tag.opaque}"' for tag in tags]
    assert parse_etags(" , ".join(written)) == tuple(tags)
    assert [parse_etag(text) for text in written] == tags


@given(LIST_TEXT)
def test_entity_tags_of_any_text(text: str) -> None:
    tags = parse_etags(text)
    assert tags is None or all(tag.weak in {True, False} and '"' not in tag.opaque for tag in tags)


@pytest.mark.parametrize("piece", ['"\\', '"', ',"', "\\", " ", "\t,", 'W/"', '"a" ', '"a,'])
def test_long_values_are_read_in_linear_time(piece: str) -> None:
    # a pattern that backtracks would take hours over this
    text = piece * 50_000
    split_list(text)
    parse_etags(text)
    parse_weights(text)
    parse_directives([f"a={text}"])
    assert parse_date(text) is None
    assert parse_etag(text) is None
