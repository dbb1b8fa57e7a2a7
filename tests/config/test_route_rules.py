"""Route rules: what a file may say, every rule that is refused with its reason, and which rule applies."""

from __future__ import annotations

import json
import pickle
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from config.rule import CREDENTIAL_FIELDS, METHODS, is_credential
from config.rules import OTHER, RouteTable, Rule, load_rules
from config.toml_file import FileError
from proxy.policy.messages import RouteRule

REPORT = """
[[route]]
match = "/api/parent-reports/generate"
methods = ["POST"]
ttl = 120
key = ["body", "authorization"]
stale_while_revalidate = 30
stale_if_error = 600
tags = ["reports"]
invalidated_by = ["POST /api/homework/*", "DELETE /api/homework/{id}"]
"""


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "rules.toml"


def table(file: Path, text: str, default_ttl: float = 300.0) -> RouteTable:
    file.write_text(text)
    return load_rules(file, default_ttl)


def faults(file: Path, text: str) -> tuple[str, ...]:
    with pytest.raises(FileError) as caught:
        table(file, text)
    assert str(caught.value).startswith(f"RULES_FILE {file}: ")
    return caught.value.faults


def route(match: str = "/a", methods: str | None = None, **more: str) -> str:
    """A rule's text; values as TOML."""
    lines = ["[[route]]", f'match = "{match}"', *([f"methods = {methods}"] if methods else [])]
    return "\n".join([*lines, *(f"{key} = {value}" for key, value in more.items()), ""])


# -- what a file may say


def test_a_whole_rule(file: Path) -> None:
    (rule,) = table(file, REPORT).rules
    assert rule == Rule(
        name="/api/parent-reports/generate",
        methods=frozenset({"POST"}),
        ttl=120.0,
        key=(("body", ""), ("authorization", "")),
        stale_while_revalidate=30.0,
        stale_if_error=600.0,
        tags=("reports",),
        invalidated_by=(("POST", "/api/homework/*"), ("DELETE", "/api/homework/{id}")),
        private=True,
        public=False,
    )


def test_what_a_rule_leaves_out(file: Path) -> None:
    (rule,) = table(file, route(), default_ttl=77).rules
    assert rule == Rule(name="/a", methods=frozenset({"GET"}), ttl=77.0)


def test_a_rule_is_what_the_policy_asks_for(file: Path) -> None:
    rule: RouteRule = table(file, REPORT).rules[0]
    assert rule.name == "/api/parent-reports/generate"


def test_parts_of_the_key(file: Path) -> None:
    text = '["query:page", "query:Sort", "body:userId", "header:X-Tenant", "cookie:Session", "authorization"]'
    (rule,) = table(file, route(key=text)).rules
    assert rule.key == (
        ("query", "page"),
        ("query", "Sort"),
        ("body", "userId"),
        ("header", "x-tenant"),
        ("cookie", "Session"),
        ("authorization", ""),
    )


@pytest.mark.parametrize(
    ("key", "private"),
    [
        ("[]", False),
        ('["query"]', False),
        ('["header:Accept-Language"]', False),
        ('["authorization"]', True),
        ('["cookie:session"]', True),
        ('["header:X-Api-Key"]', True),
        ('["header:Cookie"]', True),
    ],
)
def test_private_is_what_has_a_credential_in_its_key(file: Path, key: str, private: bool) -> None:
    assert table(file, route(key=key)).rules[0].private is private


def test_no_file_and_no_rules_match_nothing(file: Path) -> None:
    for empty in (RouteTable(()), table(file, "# nothing yet\n")):
        assert empty.match("GET", "/") is None
        assert empty.route_of("/") == OTHER == "other"
        assert empty.invalidated_by("POST", "/") == ()
        assert empty.describe() == []


@pytest.mark.parametrize("ttl", ["0", "0.5", "2147483648"])
def test_bounds_of_seconds(file: Path, ttl: str) -> None:
    assert table(file, route(ttl=ttl, stale_if_error=ttl)).rules[0].ttl == float(ttl)


@pytest.mark.parametrize("path", ["/.well-known/a", "/a/..*", "/a/...", "/a.", "/.*", "/100%25unique/*"])
def test_dots_that_are_no_segments(file: Path, path: str) -> None:
    assert table(file, route(path)).rules[0].name == path


# -- what is refused


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        (route("api"), "match: 'api' is no pattern: it does not begin with a slash"),
        (route("/a?b"), "match: '/a?b' is no pattern: it has a query"),
        (route("/{a"), "match: '/{a' is no pattern: '{a': a name in braces must be a whole segment"),
        (
            route("http://h/a"),
            "it does not begin with a slash; a pattern is for the path alone, without scheme and host",
        ),
        *(
            (route(path), f"match: {path!r} has or may hide a segment . or .., and no rule applies to such a path")
            for path in (
                "/a/../b",
                "/./*",
                "/a/.",
                "/a/%2e%2E/c",
                "/{id}/%252e",
                "/a/..;x=1",
                "/a/..%00b",
                "/a/%0a../b",
                "/x/%c0%ae%C0%AE/*",
                "/a/%25u002e/b",
            )
        ),
        ("[[route]]\nttl = 1\n", "match: it is missing"),
        ("[[route]]\nmatch = 3\n", "match: 3 is not text"),
        (route(methods='["PUT"]'), "methods: 'PUT' cannot be stored, only GET, HEAD, POST"),
        (route(methods='["post"]'), "methods: 'post' cannot be stored, only GET, HEAD, POST; did you mean POST?"),
        (route(methods="[]"), "methods: the list is empty"),
        (route(methods='"GET"'), "methods: 'GET' is not a list of texts"),
        (route(methods='["GET", "GET"]'), "methods: 'GET' stands in it twice"),
        (route(methods='["HEAD"]'), "methods: HEAD is answered from what GET stored"),
        (route(ttl="-1"), "ttl: -1 is not a number of seconds from 0"),
        (route(ttl="nan"), "ttl: nan is not a number of seconds"),
        (route(ttl="inf"), "ttl: inf is not a number of seconds"),
        (route(ttl="1" + "0" * 400), "ttl: 1000"),
        (route(ttl='"300"'), "ttl: '300' is not a number of seconds"),
        (route(ttl="true"), "ttl: True is not a number of seconds"),
        (route(stale_while_revalidate="-0.5"), "stale_while_revalidate: -0.5 is not"),
        (route(stale_if_error="-inf"), "stale_if_error: -inf is not"),
        (route(key='"body"'), "key: 'body' is not a list of texts"),
        (route(key="[1]"), "key: [1] is not a list of texts"),
        (route(key='["bodi"]'), "key: 'bodi' is none of query, query:NAME, body, body:JSON_FIELD"),
        (route(key='["bodi"]'), "did you mean body?"),
        (route(key='["user:id"]'), "key: 'user:id' is none of"),
        (route(key='["header"]'), "key: header needs a name, as in header:NAME"),
        (route(key='["cookie:"]'), "key: 'cookie:' has no proper name"),
        (route(key='["query:"]'), "key: 'query:' has no proper name"),
        (route(key='["header:a b"]'), "key: 'header:a b' has no proper name"),
        (route(key='["cookie:a=b"]'), "key: 'cookie:a=b' has no proper name"),
        (route(key='["header:Authorization"]'), "key: header:authorization is written authorization"),
        (route(key='["authorization:x"]'), "key: 'authorization:x' is none of"),
        (route(key='["query", "query:a"]'), "key: query is the whole of it"),
        (route(key='["body", "body:a"]'), "key: body is the whole of it"),
        (route(key='["query", "query"]'), "key: 'query' stands in it twice"),
        (route(key='["header:A", "header:a"]'), "key: header:a stands in it twice"),
        (route(tags='["a b"]'), "tags: 'a b' is not 1 to 256 visible"),
        (route(tags='["a,b"]'), "tags: 'a,b' is not"),
        (route(tags='[""]'), "tags: '' is not"),
        (route(tags=f'["{"x" * 257}"]'), "(259 characters) is not 1 to 256"),
        (route(tags=json.dumps([f"t{n}" for n in range(65)])), "tags: 65 are more than the 64"),
        (route(invalidated_by='["/a"]'), "invalidated_by: '/a' is not a method, a space and a path pattern"),
        (route(invalidated_by='["POST"]'), "invalidated_by: 'POST' is not a method, a space and a path pattern"),
        (route(invalidated_by='["POST a"]'), "invalidated_by: 'a' is no pattern: it does not begin with a slash"),
        (route(invalidated_by='["POST  /a"]'), "invalidated_by: ' /a' is no pattern"),
        (route(invalidated_by='["post /a"]'), "methods are upper case; did you mean POST?"),
        (
            route(invalidated_by='["PSOT /a"]'),
            "invalidated_by: 'PSOT /a': PSOT is no registered method; did you mean POST?",
        ),
        (route(invalidated_by='["GET /a"]'), "invalidated_by: 'GET /a': GET changes nothing"),
        (route(invalidated_by='["P(ST /a"]'), "invalidated_by: 'P(ST /a' is not a method"),
        (route(public='"yes"'), "public: 'yes' is neither true nor false"),
        (route(tttl="1"), "tttl: this key is not known; did you mean ttl?"),
        (route(private="true"), "private: this key is not known"),
        (route() + "[route2]\n", "route2: this key is not known; did you mean route?"),
        ("[route]\nmatch = '/a'\n", "route: each rule begins with [[route]], in double brackets"),
        ("route = ['/a']\n", "route: each rule begins with [[route]]"),
    ],
)
def test_each_fault_has_its_reason(file: Path, text: str, reason: str) -> None:
    assert any(reason in fault for fault in faults(file, text)), faults(file, text)


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        (route(methods='["POST"]', key='["authorization"]'), "a POST is told from others by its content"),
        (route(methods='["POST"]', key='["body"]'), "one user would get another's answer"),
        (route(methods='["GET", "POST"]', key='["query", "body"]'), "one user would get another's answer"),
        (route(methods='["POST"]', public="true"), "a POST is told from others by its content"),
        (route(public="true", key='["authorization"]'), "the same for everyone cannot depend on the credential"),
        (route(public="true", key='["cookie:s"]'), "the same for everyone cannot depend on the credential"),
        (route(public="true", key='["header:x-api-key"]'), "the same for everyone cannot depend on the credential"),
    ],
)
def test_a_rule_that_would_share_one_user_s_answer_is_refused(file: Path, text: str, reason: str) -> None:
    (fault,) = faults(file, text)
    assert fault.startswith("route 1 ('/a'): ")
    assert reason in fault


@pytest.mark.parametrize(
    "text",
    [
        route(methods='["POST"]', key='["body", "authorization"]'),
        route(methods='["POST"]', key='["body:userId", "cookie:session"]'),
        route(methods='["POST"]', key='["body", "header:x-api-key"]'),
        route(methods='["POST"]', key='["body", "header:x-user"]'),
        route(methods='["POST"]', key='["body"]', public="true"),
        route(methods='["GET", "HEAD", "POST"]', key='["body", "authorization"]'),
        route(public="true", key='["header:accept-language"]'),
        route(),
    ],
)
def test_a_rule_that_keeps_users_apart_is_taken(file: Path, text: str) -> None:
    assert len(table(file, text).rules) == 1


@given(
    methods=st.sets(st.sampled_from(METHODS), min_size=1),
    key=st.lists(st.sampled_from(["query", "body", "authorization", "header:x-tenant", "cookie:s"]), unique=True),
    public=st.booleans(),
)
def test_no_post_rule_without_content_and_someone_in_its_key(
    tmp_path_factory: pytest.TempPathFactory, methods: set[str], key: list[str], public: bool
) -> None:
    file = tmp_path_factory.mktemp("rules") / "rules.toml"
    text = route(methods=json.dumps(sorted(methods)), key=json.dumps(key), public=str(public).lower())
    try:
        (rule,) = table(file, text).rules
    except FileError:
        return
    kinds = {kind for kind, _ in rule.key}
    if "POST" in rule.methods:
        assert "body" in kinds
        assert rule.public or kinds & {"authorization", "cookie", "header"}
    assert not (rule.public and any(map(is_credential, rule.key)))


@pytest.mark.parametrize(
    ("first", "second"),
    [
        (route("/a"), route("/a")),
        (route("/u/{id}"), route("/u/{user}")),
        (route("/a", '["GET", "HEAD"]'), route("/a", '["GET"]')),
    ],
)
def test_the_same_paths_and_methods_twice_are_refused(file: Path, first: str, second: str) -> None:
    (fault,) = faults(file, first + second)
    assert fault.startswith("route 2 (")
    assert "GET of the same paths has a rule already, route 1" in fault


def test_the_same_paths_with_other_methods_are_two_rules(file: Path) -> None:
    both = table(file, route("/a") + route("/a", '["POST"]', key='["body", "authorization"]'))
    assert [rule.methods for rule in both.rules] == [{"GET"}, {"POST"}]


def test_every_fault_of_the_file_is_in_one_message(file: Path) -> None:
    text = "colour = 1\n" + route("api", ttl="-1", nope="1") + route("/b", '["POST"]') + route("/c") + route("/c")
    with pytest.raises(FileError) as caught:
        table(file, text)
    assert str(caught.value).splitlines() == [
        f"RULES_FILE {file}: 7 faults:",
        "  colour: this key is not known",
        "  route 1 ('api'): match: 'api' is no pattern: it does not begin with a slash",
        "  route 1 ('api'): ttl: -1 is not a number of seconds from 0 to 2147483648",
        "  route 1 ('api'): nope: this key is not known",
        "  route 2 ('/b'): key: a POST is told from others by its content; without body or body:FIELD in the key, "
        "requests for different things would get one answer",
        "  route 2 ('/b'): key: without authorization, cookie:NAME or header:NAME in the key one user would get "
        "another's answer; if it is the same for everyone, say public = true",
        "  route 4 ('/c'): match: GET of the same paths has a rule already, route 3",
    ]


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (None, "it cannot be read: No such file or directory"),
        (b"[[route]\n", "it is not TOML: "),
        (b"\xff", "it is not TOML: it is not UTF-8 text"),
    ],
)
def test_a_file_that_cannot_be_used(file: Path, content: bytes | None, words: str) -> None:
    if content is not None:
        file.write_bytes(content)
    with pytest.raises(FileError, match=f"RULES_FILE .*: 1 fault:\n  {words}"):
        load_rules(file, 300.0)


# -- which rule applies

ORDERED = (
    route("/api/users/{id}", ttl="1")
    + route("/api/users/me", ttl="2")
    + route("/api/*", ttl="3", invalidated_by='["DELETE /api/users/{id}", "POST /api/users"]')
    + route("/api/report", ttl="4")
    + route("/api/report", '["POST"]', ttl="5", key='["body", "authorization"]', invalidated_by='["POST /api/users"]')
)


@pytest.mark.parametrize(
    ("method", "path", "ttl"),
    [
        ("GET", "/api/users/7", 1),
        ("GET", "/api/users/me", 1),
        ("HEAD", "/api/users/7", 1),
        ("GET", "/api/users/7/x", 3),
        ("GET", "/api/report", 3),
        ("POST", "/api/report", 5),
        ("POST", "/api/other", None),
        ("PUT", "/api/report", None),
        ("GET", "/other", None),
        ("OPTIONS", "*", None),
    ],
)
def test_the_first_rule_that_matches_applies(file: Path, method: str, path: str, ttl: float | None) -> None:
    rule = table(file, ORDERED).match(method, path)
    assert (rule.ttl if rule is not None else None) == ttl


def test_a_rule_whose_requests_an_earlier_one_takes_is_told_of(file: Path) -> None:
    first, second = table(file, ORDERED).idle()
    assert first.startswith("the route rule for /api/users/me is never asked for GET: /api/users/{id}, which comes")
    assert second.startswith("the route rule for /api/report is never asked for GET: /api/*, which")
    assert table(file, route("/api/users/me") + route("/api/users/{id}") + route("/api/*")).idle() == []


@pytest.mark.parametrize(
    ("path", "label"),
    [("/api/users/me", "/api/users/{id}"), ("/api/report", "/api/*"), ("/x", "other"), ("*", "other")],
)
def test_the_label_is_the_first_pattern_whatever_the_method(file: Path, path: str, label: str) -> None:
    assert table(file, ORDERED).route_of(path) == label


@pytest.mark.parametrize(
    ("method", "path", "ttls"),
    [
        ("POST", "/api/users", [3, 5]),
        ("DELETE", "/api/users/7", [3]),
        ("DELETE", "/api/users", []),
        ("PUT", "/api/users", []),
        ("POST", "/api/%75sers", [3, 5]),
        ("POST", "/api/users%2F", []),
        ("DELETE", "/api/users/%37", [3]),
    ],
)
def test_a_success_there_invalidates_all_rules_that_name_it(
    file: Path, method: str, path: str, ttls: list[float]
) -> None:
    assert [rule.ttl for rule in table(file, ORDERED).invalidated_by(method, path)] == ttls


def test_routes_are_described_as_they_were_written(file: Path) -> None:
    described = table(file, REPORT).describe()
    assert described == [
        {
            "match": "/api/parent-reports/generate",
            "methods": ["POST"],
            "ttl": 120.0,
            "key": ["body", "authorization"],
            "stale_while_revalidate": 30.0,
            "stale_if_error": 600.0,
            "tags": ["reports"],
            "invalidated_by": ["POST /api/homework/*", "DELETE /api/homework/{id}"],
            "private": True,
            "public": False,
            "set_cookie": False,
        }
    ]
    assert json.loads(json.dumps(described)) == described


def test_a_table_can_be_sent_to_a_worker(file: Path) -> None:
    made = table(file, ORDERED)
    copy = pickle.loads(pickle.dumps(made))  # noqa: S301 - our own
    assert copy.rules == made.rules
    assert copy.match("GET", "/api/users/7") == made.rules[0]


def test_credential_fields_are_lower_case_and_the_obvious_ones_are_there() -> None:
    assert {name.lower() for name in CREDENTIAL_FIELDS} == CREDENTIAL_FIELDS
    assert {"authorization", "cookie", "x-api-key"} <= CREDENTIAL_FIELDS
