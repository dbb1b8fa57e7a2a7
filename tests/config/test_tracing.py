"""Whether there are traces, what is said where there are none, and what is said of a collector that fails."""

from __future__ import annotations

import asyncio
import logging
import sys
import time

import pytest

from config.tracing import apart, enter, here, set_up, why_not
from tests.collector import SERVER, environ, running_collector, tracing_to

ENDPOINT = {"OTEL_EXPORTER_OTLP_ENDPOINT": "http://collector:4318"}
SECRET = "hunter2-of-the-collector"  # noqa: S105 - of a test


@pytest.mark.parametrize(
    "given",
    [
        {},
        {"OTEL_EXPORTER_OTLP_ENDPOINT": ""},
        {"OTEL_SERVICE_NAME": "shop"},
        ENDPOINT | {"OTEL_SDK_DISABLED": "TRUE"},
        ENDPOINT | {"OTEL_TRACES_EXPORTER": "none"},
    ],
)
def test_nobody_asked_for_traces(given: dict[str, str]) -> None:
    assert why_not(given) == ""


@pytest.mark.parametrize(
    "given",
    [
        ENDPOINT,
        {"OTEL_EXPORTER_OTLP_TRACES_ENDPOINT": "https://[::1]:4318/v1/traces"},
        ENDPOINT | {"OTEL_EXPORTER_OTLP_PROTOCOL": "http/protobuf"},
        ENDPOINT | {"OTEL_EXPORTER_OTLP_PROTOCOL": "grpc", "OTEL_EXPORTER_OTLP_TRACES_PROTOCOL": "http/protobuf"},
        ENDPOINT | {"OTEL_TRACES_EXPORTER": "otlp", "OTEL_SDK_DISABLED": "false"},
    ],
)
def test_there_shall_be_some(given: dict[str, str]) -> None:
    assert why_not(given) is None


@pytest.mark.parametrize(
    ("given", "named"),
    [
        (ENDPOINT | {"OTEL_EXPORTER_OTLP_PROTOCOL": "grpc"}, "OTEL_EXPORTER_OTLP_PROTOCOL is unsupported"),
        (ENDPOINT | {"OTEL_TRACES_EXPORTER": "console"}, "OTEL_TRACES_EXPORTER"),
        ({"OTEL_EXPORTER_OTLP_ENDPOINT": f"{SECRET}:4318"}, "OTEL_EXPORTER_OTLP_ENDPOINT"),
        ({"OTEL_EXPORTER_OTLP_ENDPOINT": f"http://{SECRET}@[:1"}, "OTEL_EXPORTER_OTLP_ENDPOINT"),
        ({"OTEL_EXPORTER_OTLP_ENDPOINT": "http://collector:port"}, "OTEL_EXPORTER_OTLP_ENDPOINT"),
    ],
)
def test_what_cannot_be_is_said_and_nothing_fails(
    given: dict[str, str], named: str, caplog: pytest.LogCaptureFixture
) -> None:
    assert set_up("a-service", given) is None
    [record] = caplog.records
    assert record.levelno == logging.WARNING
    assert named in record.getMessage()
    assert SECRET not in record.getMessage()


def test_the_extra_that_is_missing_is_named(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    monkeypatch.setitem(sys.modules, "config.otel", None)
    assert set_up("a-service", ENDPOINT) is None
    [record] = caplog.records
    assert "pip install 'siding-proxy[otel]'" in record.getMessage()


@pytest.mark.parametrize("name", ["OTEL_BSP_MAX_QUEUE_SIZE", "OTEL_SPAN_EVENT_COUNT_LIMIT"])
def test_what_the_sdk_refuses_turns_traces_off(
    name: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    given = environ("http://127.0.0.1:9") | {name: "-1"}
    for variable, value in given.items():
        monkeypatch.setenv(variable, value)
    assert set_up("a-service", given) is None
    assert "traces are off" in caplog.text


async def test_a_failing_collector_is_told_of_once_and_without_secrets(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    async with running_collector() as collector:
        collector.status = 400
        headers = f"authorization=Bearer%20{SECRET},{SECRET}"
        tracing = tracing_to(collector.url, monkeypatch, "a-service", OTEL_EXPORTER_OTLP_HEADERS=headers)
        for number in range(3):
            tracing.begin("GET", {}, traceparent=None, tracestate=f"{SECRET};;=,=").end()
            await collector.until(lambda spans, least=number + 1: len(spans) >= least)  # type: ignore[misc]
        await tracing.close(5.0)
    # pytest listens to the SDK's own log as well
    told = [record.getMessage() for record in caplog.records if record.name.startswith("siding")]
    assert [line.count("code: 400") for line in told if "Failed to export" in line] == [1]
    assert not [line for line in told if SECRET in line]
    assert collector.fields[0]["Authorization"] == f"Bearer {SECRET}"


@pytest.mark.parametrize("silent", [True, False])
async def test_the_end_waits_for_no_collector(
    silent: bool, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    async with running_collector(answering=False) as collector:
        url = collector.url if silent else "http://127.0.0.1:9"
        tracing = tracing_to(url, monkeypatch, "a-service", OTEL_EXPORTER_OTLP_TIMEOUT="3")
        tracing.begin("GET", {}, traceparent=None).end()
        began = time.monotonic()
        await tracing.close(0.3)
        assert time.monotonic() - began < 1.0
    assert "the last spans are lost" in caplog.text


async def test_attributes_can_always_be_delivered(monkeypatch: pytest.MonkeyPatch) -> None:
    async with running_collector() as collector:
        tracing = tracing_to(collector.url, monkeypatch, "a-service")
        odd = {"url.path": "/\ud800", "long": "x" * 10_000, "none": None}
        trace = tracing.begin("GET", odd, traceparent=None, seconds=2.0)
        trace.end()
        trace.end({"late": True}, name="late", error="late")
        span = await collector.span(SERVER)
        await tracing.close(5.0)
    assert span.attributes == {"url.path": "/?", "long": "x" * 1024}
    assert not span.failed
    assert 2.0e9 <= span.end - span.begin < 3.0e9


async def test_what_is_done_apart_is_in_no_trace(monkeypatch: pytest.MonkeyPatch) -> None:
    tracing = tracing_to("http://127.0.0.1:9", monkeypatch, "a-service")

    async def work() -> object:
        return here()

    trace = tracing.begin("GET", {}, traceparent=None)
    enter(trace)
    try:
        assert await asyncio.create_task(work()) is trace
        assert await apart(work()) is None
        assert here() is trace
    finally:
        enter(None)
        await tracing.close(0.1)


async def test_a_span_that_cannot_be_made_harms_nobody(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    tracing = tracing_to("http://127.0.0.1:9", monkeypatch, "a-service")
    trace = tracing.begin("GET", {}, traceparent=None)
    monkeypatch.setattr("opentelemetry.sdk.trace.Tracer.start_span", None)
    monkeypatch.setattr("opentelemetry.sdk.trace.Span.end", None)
    child = trace.child("GET", {})
    assert child.traceparent == trace.traceparent
    child.end()
    trace.past("SET", 1.0, {})
    trace.end()
    assert caplog.text.count("a span could not be made") == 3
    await tracing.close(0.1)
