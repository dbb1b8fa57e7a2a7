"""What a completion costs, before it is asked and after."""

from __future__ import annotations

from typing import Any

import pytest

from pool_monitor.grading.costs import USUAL_ANSWER, input_tokens, price, spent
from pool_monitor.grading.models import load_models

MODELS = load_models()
MINI = MODELS.find("gpt-4o-mini")


def _body(*urls: str, model: str = "gpt-4o-mini") -> dict[str, Any]:
    images = [{"type": "image_url", "image_url": {"url": url}} for url in urls]
    return {"model": model, "messages": [{"role": "user", "content": [{"type": "text", "text": "hello"}, *images]}]}


def test_an_image_of_unknown_size_counts_as_the_largest() -> None:
    assert MINI is not None
    without = input_tokens(_body(), MINI)
    assert input_tokens(_body("https://example.org/page.png"), MINI) == without + 2833 + 8 * 5667


def test_what_was_spent() -> None:
    assert MINI is not None
    usage = {"prompt_tokens": 2_000_000, "completion_tokens": 1_000_000}
    assert spent(usage, MINI) == pytest.approx(2 * 0.15 + 0.60)
    cached = {**usage, "prompt_tokens_details": {"cached_tokens": 1_000_000}}
    assert spent(cached, MINI) == pytest.approx(0.15 + 0.075 + 0.60)
    assert spent({}, MINI) is None
    speaks = MODELS.find("gpt-4o-mini-audio-preview-2024-12-17")
    assert speaks is not None
    spoken = {**usage, "completion_tokens_details": {"audio_tokens": 500_000}}
    assert spent(spoken, speaks) == pytest.approx(2 * 0.15 + 0.5 * 0.60 + 0.5 * 20.00)


def test_a_price() -> None:
    assert MINI is not None
    body = _body()
    assert price(MODELS, body, None) == pytest.approx(MINI.cost(input_tokens(body, MINI), USUAL_ANSWER))
    assert price(MODELS, body, {"prompt_tokens": 10, "completion_tokens": 10}) == pytest.approx(MINI.cost(10, 10))
    priority, flex = ({"service_tier": tier, **body} for tier in ("priority", "flex"))
    assert price(MODELS, priority, {"prompt_tokens": 1_000_000, "completion_tokens": 0}) == pytest.approx(0.25)
    assert price(MODELS, flex, None) is None
    assert price(MODELS, _body(model="unheard-of"), None) is None
    assert price(MODELS, {}, None) is None
