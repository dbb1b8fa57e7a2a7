"""Command line, environment and file to settings: precedence, and every fault in one message."""

from __future__ import annotations

import os
import pickle
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from config.kinds import KIB, MIB
from config.load import SettingsError, load, misspelt, read
from config.settings import ProxySettings
from config.version import VERSION

ROOT = Path(__file__).resolve().parents[2]
ORIGIN = {"UPSTREAM_URL": "http://origin:3000"}
SIZES_OF_NOTHING = st.text(st.characters(blacklist_characters="0123456789", blacklist_categories=["Cs", "Nd"]))


def settings(*argv: str, **environ: str) -> ProxySettings:
    return read(ProxySettings, argv, ORIGIN | environ, "siding-proxy")


def faults(*argv: str, **environ: str) -> tuple[str, ...]:
    with pytest.raises(SettingsError) as caught:
        settings(*argv, **environ)
    return caught.value.faults


@pytest.fixture
def toml(tmp_path: Path) -> Path:
    return tmp_path / "siding.toml"


# -- what is read


def test_defaults_are_those_of_the_contract() -> None:
    made = settings()
    assert made.model_dump(exclude={"upstream_url"}) == {
        "host": "::",
        "port": 8080,
        "admin_host": "127.0.0.1",
        "admin_port": 9090,
        "admin_token": None,
        "public_metrics": False,
        "pool_monitor_url": None,
        "rules_file": None,
        "redis_url": None,
        "redis_timeout_ms": 50,
        "redis_max_object_bytes": MIB,
        "cache_secret": None,
        "cache_max_bytes": 256 * MIB,
        "cache_max_object_bytes": 8 * MIB,
        "cache_ttl_seconds": 300,
        "targeted_fields": ("siding-cache-control", "cdn-cache-control"),
        "cache_status_key": False,
        "upstream_connect_timeout_ms": 2000,
        "upstream_timeout_ms": 120_000,
        "max_request_bytes": 64 * MIB,
        "drain_seconds": 25,
        "workers": 1,
        "log_level": "info",
        "log_format": "json",
        "enable_query_cache": True,
        "enable_etag": True,
        "enable_dedup": True,
        "enable_compression": True,
        "enable_redis_cache": True,
        "use_optimized_prompts": True,
        "enable_completion_cache": False,
        "bypass": False,
    }


def test_the_command_line_goes_before_the_environment_before_the_file_before_the_default(toml: Path) -> None:
    toml.write_text('port = 1001\nadmin_port = 1002\nworkers = 3\nhost = "10.0.0.1"\n')
    made = settings("--port", "3001", SIDING_CONFIG=str(toml), PORT="2001", ADMIN_PORT="2002")
    assert (made.port, made.admin_port, made.workers, made.log_level) == (3001, 2002, 3, "info")


def test_the_file_may_be_named_on_the_command_line(toml: Path) -> None:
    toml.write_text("port = 1001\n")
    other = toml.with_name("other.toml")
    other.write_text("port = 1002\n")
    assert settings(f"--siding-config={other}", SIDING_CONFIG=str(toml)).port == 1002


def test_a_file_has_values_of_its_own_types_or_text(toml: Path) -> None:
    toml.write_text(
        'enable_etag = false\nbypass = "on"\nenable_dedup = 0\ncache_max_bytes = "1 MiB"\n'
        "max_request_bytes = 1000\ndrain_seconds = 0.5\nport = 0\n"
    )
    made = settings(SIDING_CONFIG=str(toml))
    assert (made.enable_etag, made.bypass, made.enable_dedup) == (False, True, False)
    assert (made.cache_max_bytes, made.max_request_bytes, made.drain_seconds, made.port) == (MIB, 1000, 0.5, 0)


def test_a_switch_alone_on_the_command_line_is_on() -> None:
    made = settings("--bypass", "--public-metrics", "--enable-etag=off", "--enable-dedup", "no")
    assert (made.bypass, made.public_metrics, made.enable_etag, made.enable_dedup) == (True, True, False, False)


def test_empty_text_is_none_where_there_may_be_none() -> None:
    made = settings("--redis-url=", ADMIN_TOKEN="", RULES_FILE=" ", SIDING_CONFIG="")
    assert (made.admin_token, made.rules_file, made.redis_url) == (None, None, None)


def test_other_variables_of_the_environment_are_nobody_s_business() -> None:
    assert settings(PATH="/bin", PORTS="x", SIDING="1") == settings()


def test_the_largest_object_never_exceeds_a_smaller_budget_by_default() -> None:
    assert settings(CACHE_MAX_BYTES="1MiB").cache_max_object_bytes == MIB
    assert settings(CACHE_MAX_BYTES="1GiB").cache_max_object_bytes == 8 * MIB


def test_two_free_ports_are_not_the_same_port() -> None:
    assert settings(PORT="0", ADMIN_PORT="0").admin_port == 0


def test_settings_do_not_change_and_can_be_sent_to_workers() -> None:
    made = settings(ADMIN_TOKEN="s3cret")
    with pytest.raises(ValueError, match="frozen"):
        made.port = 1
    assert pickle.loads(pickle.dumps(made)) == made  # noqa: S301 - our own


def test_secrets_do_not_show_in_a_representation() -> None:
    text = repr(settings(ADMIN_TOKEN="s3cret", REDIS_URL="redis://:p4ss@cache"))
    assert "s3cret" not in text
    assert "p4ss" not in text


# -- what is refused


def test_every_fault_is_in_one_message(toml: Path, capsys: pytest.CaptureFixture[str]) -> None:
    toml.write_text('prot = 1\nworkers = "many"\nport = 70000\n')
    environ = {"SIDING_CONFIG": str(toml), "UPSTREAM_URL": "ftp://x", "LOG_LEVEL": "loud", "ENABLE_ETAG": "maybe"}
    with pytest.raises(SystemExit) as ended:
        load(ProxySettings, ["--drain-seconds", "-1", "--prto=9"], environ, "siding-proxy")
    out, message = capsys.readouterr()
    assert ended.value.code == 2
    assert out == ""
    assert message.startswith("siding-proxy: 8 faults in the settings:\n")
    assert set(message.splitlines()[1:]) == {
        "  --prto (command line) is no option; did you mean --port?",
        f"  prot (in {toml}) is no setting; did you mean port?",
        "  UPSTREAM_URL is 'ftp://x' (environment); it does not begin with http:// or https://; "
        "allowed: http://host:port or https://host:port, without user name, path and query",
        f"  PORT is 70000 (in {toml}); allowed: a whole number from 0 to 65535",
        f"  WORKERS is 'many' (in {toml}); allowed: a whole number from 1 to 256",
        "  LOG_LEVEL is 'loud' (environment); allowed: debug, info, warning, error or critical",
        "  ENABLE_ETAG is 'maybe' (environment); allowed: true or false (also 1/0, yes/no, on/off)",
        "  DRAIN_SECONDS is '-1' (command line, --drain-seconds); allowed: seconds, a number from 0 to 86400",
    }


@pytest.mark.parametrize(
    ("variable", "value"),
    [
        ("PORT", "-1"),
        ("PORT", "65536"),
        ("PORT", "http"),
        ("PORT", ""),
        ("ADMIN_PORT", "1.5"),
        ("HOST", "a:80"),
        ("PUBLIC_METRICS", "y"),
        ("POOL_MONITOR_URL", "monitor:8081"),
        ("REDIS_URL", "http://cache"),
        ("CACHE_MAX_BYTES", "-1"),
        ("CACHE_MAX_BYTES", "17 TiB"),
        ("CACHE_MAX_OBJECT_BYTES", "8M"),
        ("CACHE_TTL_SECONDS", "nan"),
        ("CACHE_TTL_SECONDS", "-0.1"),
        ("UPSTREAM_CONNECT_TIMEOUT_MS", "0"),
        ("UPSTREAM_TIMEOUT_MS", "0"),
        ("MAX_REQUEST_BYTES", "0"),
        ("DRAIN_SECONDS", "inf"),
        ("WORKERS", "0"),
        ("LOG_LEVEL", "verbose"),
        ("LOG_FORMAT", "xml"),
        ("ADMIN_TOKEN", "two words"),
        ("ENABLE_QUERY_CACHE", ""),
        ("USE_OPTIMIZED_PROMPTS", "2"),
        ("BYPASS", "bypass"),
        ("UPSTREAM_URL", ""),
    ],
)
def test_a_value_out_of_bounds_is_one_fault_that_names_it(variable: str, value: str) -> None:
    found = faults(**{variable: value})
    assert len(found) == 1
    assert found[0].startswith(f"{variable} is ")
    assert "(environment)" in found[0]
    assert "allowed: " in found[0]


def test_a_missing_origin_is_told() -> None:
    with pytest.raises(SettingsError, match="UPSTREAM_URL is not set: give http://host:port"):
        read(ProxySettings, [], {}, "siding-proxy")


def test_a_missing_origin_is_told_beside_names_that_are_unknown() -> None:
    with pytest.raises(SettingsError) as caught:
        read(ProxySettings, ["--upstream-ulr=http://origin"], {}, "siding-proxy")
    assert [fault.split(" ")[0] for fault in caught.value.faults] == ["--upstream-ulr", "UPSTREAM_URL"]


def test_nothing_is_called_missing_that_may_stand_where_nobody_could_read() -> None:
    with pytest.raises(SettingsError) as caught:
        read(ProxySettings, ["--upstream-url=http://origin", "--port"], {}, "siding-proxy")
    assert len(caught.value.faults) == 1


def test_the_environment_can_take_back_what_the_file_says(toml: Path) -> None:
    toml.write_text('admin_token = "s3cret"\n')
    assert settings(SIDING_CONFIG=str(toml), ADMIN_TOKEN="").admin_token is None


def test_the_listeners_may_not_share_a_port() -> None:
    assert "it is PORT's as well" in faults(PORT="9090")[0]
    assert faults(PORT="9090")[0].startswith("ADMIN_PORT is '9090' (default)")
    assert len(faults(PORT="81", ADMIN_PORT="81")) == 1


def test_an_object_may_not_be_larger_than_the_budget() -> None:
    (fault,) = faults(CACHE_MAX_BYTES="1MiB", CACHE_MAX_OBJECT_BYTES="2MiB")
    assert "it is more than CACHE_MAX_BYTES, which is 1 MiB" in fault
    assert settings(CACHE_MAX_BYTES="1KiB", CACHE_MAX_OBJECT_BYTES="1KiB").cache_max_object_bytes == KIB


def test_settings_that_disagree_are_told_beside_others_that_are_bad_by_themselves() -> None:
    found = faults(PORT="9090", LOG_LEVEL="loud", CACHE_MAX_BYTES="1KiB", CACHE_MAX_OBJECT_BYTES="2KiB")
    assert [fault.split(" ")[0] for fault in found] == ["ADMIN_PORT", "CACHE_MAX_OBJECT_BYTES", "LOG_LEVEL"]


def test_what_follows_from_a_bad_setting_is_not_told_again() -> None:
    assert [fault.split(" ")[0] for fault in faults(CACHE_MAX_BYTES="much")] == ["CACHE_MAX_BYTES"]


@pytest.mark.parametrize(
    ("argv", "environ"),
    [
        ([], {"ADMIN_TOKEN": "hush hush"}),
        (["--admin-token", "hush hush"], {}),
        (["--admin-tokn", "hush"], {}),
        (["--admin-tokn=hush"], {}),
        ([], {"UPSTREAM_URL": "http://user:hush@origin/"}),
        ([], {"UPSTREAM_URL": "http://origin/?key=hush"}),
        ([], {"UPSTREAM_URL": "user:hush@origin"}),
        ([], {"REDIS_URL": "redis://:hush@cache/x"}),
        ([], {"REDIS_URL": "redis+sentinel://a/main?sentinel_pasword=hush"}),
        ([], {"POOL_MONITOR_URL": "http://hush@monitor"}),
        ([], {"PORT": "http://me:hush@elsewhere"}),
    ],
)
def test_secrets_are_not_repeated(argv: list[str], environ: dict[str, str]) -> None:
    assert "hush" not in " ".join(faults(*argv, **environ))


def test_secrets_in_a_file_are_not_repeated(toml: Path) -> None:
    toml.write_text('redis_url = ["redis://:hush@cache"]\n[admin_token]\nis = "hush"\n')
    found = faults(SIDING_CONFIG=str(toml))
    assert [fault.split(" ")[0] for fault in found] == ["ADMIN_TOKEN", "REDIS_URL"]
    assert "hush" not in " ".join(found)


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (None, "cannot be read: No such file or directory"),
        (b"port = ", "is not TOML: "),
        (b"port = 1\nport = 2", "is not TOML: "),
        (b"\xff\xfe", "is not TOML: it is not UTF-8 text"),
    ],
)
def test_a_file_that_cannot_be_used(toml: Path, content: bytes | None, words: str) -> None:
    if content is not None:
        toml.write_bytes(content)
    with pytest.raises(SettingsError) as caught:
        read(ProxySettings, [], {"SIDING_CONFIG": str(toml), "PORT": "x"}, "siding-proxy")
    assert [fault.split(" ")[0] for fault in caught.value.faults] == ["SIDING_CONFIG", "PORT"]
    assert f"SIDING_CONFIG {toml} {words}" in caught.value.faults[0]


def test_a_folder_is_no_file(tmp_path: Path) -> None:
    assert "cannot be read" in faults(SIDING_CONFIG=str(tmp_path))[0]


@pytest.mark.parametrize("line", ["PORT = 1", "[proxy]\nport = 1", "ports = [1]"])
def test_names_in_a_file_are_the_lower_case_names_only(toml: Path, line: str) -> None:
    toml.write_text(line)
    assert "is no setting" in faults(SIDING_CONFIG=str(toml))[0]


@pytest.mark.parametrize("value", ["true", "1.5", "[]", "{}", "1979-05-27", '"8081 "'])
def test_types_of_a_file_that_are_no_whole_number(toml: Path, value: str) -> None:
    toml.write_text(f"port = {value}\n")
    if value.startswith('"'):
        assert settings(SIDING_CONFIG=str(toml)).port == 8081
    else:
        assert faults(SIDING_CONFIG=str(toml))[0].startswith("PORT is ")


@pytest.mark.parametrize("argv", [["--port"], ["stray"], ["--por", "1"], ["-p", "1"], ["--version=1"]])
def test_a_command_line_that_cannot_be_read(argv: list[str]) -> None:
    (fault,) = faults(*argv)
    assert "command line" in fault


def test_the_last_of_an_option_counts() -> None:
    assert settings("--port", "1", "--port", "2").port == 2


@given(SIZES_OF_NOTHING)
def test_no_text_ends_in_anything_but_a_fault(text: str) -> None:
    environ = {name.upper(): text for name in ProxySettings.model_fields}
    with pytest.raises(SettingsError) as caught:
        read(ProxySettings, [], environ, "siding-proxy")
    assert any(fault.startswith("CACHE_MAX_BYTES is ") for fault in caught.value.faults)


# -- what is printed


def test_help_shows_every_setting_with_default_bounds_and_meaning(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        load(ProxySettings, ["--help"], {"COLUMNS": "80"}, "siding-proxy")
    text = " ".join(capsys.readouterr().out.split())
    assert ended.value.code == 0
    for name, setting in ProxySettings.model_fields.items():
        assert f"--{name.replace('_', '-')} " in text
        assert f"[{name.upper()}]" in text
        assert str(setting.description) in text
    assert "(milliseconds, a whole number from 1 to 86400000; default: 120000) [UPSTREAM_TIMEOUT_MS]" in text
    assert "[SIDING_CONFIG]" in text


def test_version(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        load(ProxySettings, ["--version"], {}, "siding-proxy")
    assert ended.value.code == 0
    assert capsys.readouterr().out == f"siding-proxy {VERSION}\n"


def test_a_bad_setting_ends_a_process_with_status_2_and_no_traceback() -> None:
    program = (
        "import os, sys; from config.load import load; from config.settings import ProxySettings; "
        "load(ProxySettings, sys.argv[1:], os.environ, 'siding-proxy')"
    )
    environ = {**os.environ, "PORT": "99999", "UPSTREAM_URL": "nonsense"}
    ended = subprocess.run(
        [sys.executable, "-c", program], cwd=ROOT, env=environ, capture_output=True, text=True, timeout=30, check=False
    )
    assert ended.returncode == 2
    assert ended.stdout == ""
    assert "Traceback" not in ended.stderr
    assert "PORT is '99999' (environment)" in ended.stderr
    assert "UPSTREAM_URL is 'nonsense' (environment)" in ended.stderr


@pytest.mark.parametrize(
    ("origin", "host"),
    [
        ("http://localhost:8080", "::"),
        ("http://127.0.0.1:8080", "::"),
        ("http://127.0.0.2:8080", "0.0.0.0"),  # noqa: S104 - not bound
        ("http://[::1]:8080", "::"),
        ("http://0.0.0.0:8080", "127.0.0.1"),
        ("http://localhost:8080", "127.0.0.1"),
        ("http://127.0.0.1:8080", "localhost"),
        ("https://LOCALHOST:8080", "localhost"),
        ("http://siding.internal:8080", "siding.internal"),
    ],
)
def test_the_origin_is_not_siding_itself(origin: str, host: str) -> None:
    (fault,) = faults(UPSTREAM_URL=origin, HOST=host)
    assert fault.startswith("PORT is '8080' (default); UPSTREAM_URL, which is ")
    assert "leads there: each request would come back for ever" in fault


def test_the_origin_is_not_the_admin_listener() -> None:
    (fault,) = faults(UPSTREAM_URL="http://localhost:9090")
    assert fault.startswith("ADMIN_PORT is '9090' (default); UPSTREAM_URL, which is http://localhost:9090, leads there")
    assert settings(UPSTREAM_URL="http://127.0.0.1:9090", ADMIN_PORT="9091").admin_port == 9091


# -- names that are no setting's


@pytest.mark.parametrize(
    ("name", "meant"),
    [
        ("REDIS_URI", "REDIS_URL"),
        ("CACHE_MAX_BYTE", "CACHE_MAX_BYTES"),
        ("cache_max_bytes", "CACHE_MAX_BYTES"),
        ("ENABLE_COMPRESION", "ENABLE_COMPRESSION"),
        # the monitor's, and what others have in theirs
        ("DATABASE_URL", None),
        ("DATABASE_URI", None),
        ("PGPORT", None),
        ("HOSTNAME", None),
        ("REDIS_PUBLIC_URL", None),
        ("PORTS", None),
    ],
)
def test_a_variable_that_is_called_nearly_like_a_setting_is_doubted(name: str, meant: str | None) -> None:
    doubts = [f"the environment has {name}, which is no setting; was {meant} meant?"] if meant is not None else []
    assert misspelt(ProxySettings, {name: "secret"}) == doubts
    # who has set it means something else by the other
    assert misspelt(ProxySettings, {name: "secret", meant or "": "other"}) == []


@pytest.mark.parametrize(
    ("origin", "host", "port"),
    [
        ("http://localhost:8081", "::", "8080"),
        ("http://localhost", "::", "8080"),
        ("http://[::1]:8080", "0.0.0.0", "8080"),  # noqa: S104 - not bound
        ("http://127.0.0.1:8080", "10.0.0.5", "8080"),
        ("http://10.0.0.5:8080", "127.0.0.1", "8080"),
        ("http://127.0.0.2:8080", "127.0.0.1", "8080"),
        ("http://app:8080", "::", "8080"),
        ("http://localhost:8080", "::", "0"),
    ],
)
def test_what_may_be_another_place_may_be_the_origin(origin: str, host: str, port: str) -> None:
    assert settings(UPSTREAM_URL=origin, HOST=host, PORT=port).upstream_url == origin
