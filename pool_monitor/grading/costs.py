"""Pure: what a completion costs by the table of models, before it is asked and after."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pool_monitor.grading import images, tokens
from pool_monitor.grading.accounting import Usage
from pool_monitor.grading.models import Model, Models
from pool_monitor.grading.reading import Form

ANSWER_TOKENS = {Form.ORIGINAL: 139, Form.COMPACT: 41}
"""For each question, counted on an answer to ten (1,387 pretty-printed, 409 as rows)."""
USUAL_ANSWER = 10 * ANSWER_TOKENS[Form.ORIGINAL]
LARGEST: images.Size = (2048, 768)
"""The most that a model looks at; for images whose size is not known."""


def input_tokens(body: Mapping[str, Any], model: Model) -> int:
    """Estimated, no image left out."""
    found = tokens.estimate(body, model)
    unknown = (images.tokens_of(LARGEST, "high", model) or 0) * found.unknown_images
    return found.input + unknown


def spent(usage: Mapping[str, Any], model: Model) -> float | None:
    """Dollars for a reported `usage`; None where it is none."""
    reported = Usage.of(usage)
    if reported is None:
        return None
    return model.cost(reported.input, reported.output, reported.cached, reported.audio_input, reported.audio_output)


def price(models: Models, body: Mapping[str, Any], usage: Mapping[str, Any] | None) -> float | None:
    """Dollars for a body, estimated where no `usage` is reported yet; None where its model has no known price.

    At the tier of service that the body asks for: an answer that states another goes with a body that has that.
    """
    model = models.priced(str(body.get("model", "")), str(body.get("service_tier", "")))
    if model is None:
        return None
    return spent(usage, model) if usage is not None else model.cost(input_tokens(body, model), USUAL_ANSWER)
