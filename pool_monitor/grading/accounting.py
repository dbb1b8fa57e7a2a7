"""Pure: what grading cost and what it would have cost, by day, template and model, at each tier of service apart.

Two books are kept apart. Estimated: tokens counted here, of the request as it came and as it was asked, and of the
answer as the caller got it and as the model said it. Reported: the `usage` that the upstream states and bills by.
What is never asked (kept or shared answers) stands by itself, with the `usage` of the answer that was given again.

For one line with OpenTelemetry's names: gen_ai.request.model is `model`, gen_ai.usage.input_tokens and
gen_ai.usage.output_tokens are `reported.input` and `reported.output`, gen_ai.operation.name is always chat.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field, fields
from datetime import UTC, date, datetime
from typing import Any

from config.words import counted
from pool_monitor.grading.models import Model, Models

VERSION = 1
DAYS = 90
"""Days that are kept."""
NO_TEMPLATE = "none"
MOST_TOKENS = 1_000_000_000
"""More than any answer has: sums of what an upstream states beyond it, as of counts below 0, could not be written."""


@dataclass(slots=True)
class Tally:
    """Sums; tokens but for the first four. Before -- as the caller asked; after -- as it was asked of the model, what
    was asked again included."""

    requests: int = 0
    asked_again: int = 0
    unknown_images: int = 0
    never_asked: int = 0
    prompt_before: int = 0
    prompt_after: int = 0
    text: int = 0
    text_after: int = 0
    image: int = 0
    image_after: int = 0
    output_before: int = 0
    output_after: int = 0
    reported_input: int = 0
    reported_cached: int = 0
    reported_output: int = 0
    reported_audio_input: int = 0
    reported_audio_output: int = 0
    unreported: int = 0
    spared_input: int = 0
    spared_output: int = 0
    spared_audio_input: int = 0
    spared_audio_output: int = 0

    def add(self, other: Tally) -> None:
        for one in fields(self):
            setattr(self, one.name, getattr(self, one.name) + getattr(other, one.name))


_SUMS = frozenset(one.name for one in fields(Tally))
_LATER = frozenset(name for name in _SUMS if "_audio_" in name)
"""Not in all of the books that were saved."""


@dataclass(frozen=True, slots=True)
class Usage:
    """What the upstream reports. audio_input, audio_output -- of input and output, the tokens of audio."""

    input: int
    cached: int
    output: int
    audio_input: int = 0
    audio_output: int = 0

    @classmethod
    def of(cls, usage: Mapping[str, Any] | None) -> Usage | None:
        """From a `usage` object; None where it is none."""
        given = usage or {}
        prompt, completion = tokens_in(given, "prompt_tokens"), tokens_in(given, "completion_tokens")
        if prompt is None or completion is None:
            return None

        def of_them(whole: int, details: str, name: str) -> int:
            found = given.get(details)
            return min(tokens_in(found, name) or 0, whole) if isinstance(found, Mapping) else 0

        return cls(
            prompt,
            of_them(prompt, "prompt_tokens_details", "cached_tokens"),
            completion,
            of_them(prompt, "prompt_tokens_details", "audio_tokens"),
            of_them(completion, "completion_tokens_details", "audio_tokens"),
        )


def asked(
    *,
    prompt_before: int,
    prompt_after: int,
    text: int,
    image: int,
    image_after: int,
    unknown_images: int,
    output_before: int,
    output_after: int,
    usage: Usage | None,
    asked_again: bool,
) -> Tally:
    """One asking in the compact form. text -- tokens beside the prompt, which are sent as they are.

    Where it was asked again, the original request and answer are paid beside the compact ones.
    """
    return Tally(
        requests=1,
        asked_again=int(asked_again),
        unknown_images=unknown_images,
        prompt_before=prompt_before,
        prompt_after=prompt_after + (prompt_before if asked_again else 0),
        text=text,
        text_after=text * (2 if asked_again else 1),
        image=image,
        image_after=image_after + (image if asked_again else 0),
        output_before=output_before,
        output_after=output_after + (output_before if asked_again else 0),
        **_stated("reported", usage),
    )


def passed(usage: Usage | None) -> Tally:
    """One that was left as it is: only what was reported is known."""
    return Tally(requests=1, **_stated("reported", usage))


def spared(usage: Usage | None) -> Tally:
    """One that was answered without asking."""
    return Tally(requests=1, never_asked=1, **_stated("spared", usage))


def _stated(book: str, usage: Usage | None) -> dict[str, int]:
    if usage is None:
        return {"unreported": 1} if book == "reported" else {}
    stated = {f"{book}_{name}": count for name, count in asdict(usage).items()}
    return {name: count for name, count in stated.items() if name in _SUMS}


Key = tuple[str, str, str]
"""Day, template, label of model and tier."""


@dataclass(slots=True)
class Accounts:
    """The books."""

    models: Models
    tallies: dict[Key, Tally] = field(default_factory=dict)

    def add(self, now: float, template: str, model: str, tally: Tally) -> None:
        """Add to the day of `now` (seconds since 1970, UTC)."""
        key = (day_of(now), template, self.models.label(model))
        self.tallies.setdefault(key, Tally()).add(tally)
        days = sorted({day for day, _, _ in self.tallies})
        if len(days) > DAYS:
            gone = set(days[:-DAYS])
            self.tallies = {key: tally for key, tally in self.tallies.items() if key[0] not in gone}

    # -- telling

    def document(self) -> dict[str, Any]:
        """For `GET /api/metrics/grading`."""
        total = self._sum(self.tallies)
        shown = self._shown(self.tallies)
        return {
            **shown,
            "inWords": in_words(total, shown),
            "pricesAsOf": self.models.as_of.isoformat(),
            "days": [
                {"day": day, "template": template, "model": model, **self._shown([(day, template, model)])}
                for day, template, model in sorted(self.tallies, reverse=True)
            ],
        }

    def _sum(self, keys: Iterable[Key]) -> Tally:
        total = Tally()
        for key in keys:
            total.add(self.tallies[key])
        return total

    def _shown(self, keys: Iterable[Key]) -> dict[str, Any]:
        keys = list(keys)
        tally = self._sum(keys)
        input_before = tally.prompt_before + tally.text + tally.image
        input_after = tally.prompt_after + tally.text_after + tally.image_after
        return {
            "requests": tally.requests,
            "askedAgain": tally.asked_again,
            "neverAsked": tally.never_asked,
            "unpriced": sum(self.tallies[key].requests for key in keys if key[2] not in self.models.known),
            "estimated": {
                "prompt": _change(tally.prompt_before, tally.prompt_after),
                "text": _change(tally.text, tally.text_after),
                "image": _change(tally.image, tally.image_after),
                "input": _change(input_before, input_after),
                "output": _change(tally.output_before, tally.output_after),
                "dollars": self._dollars(keys),
                "unknownImages": tally.unknown_images,
            },
            "reported": {
                "input": tally.reported_input,
                "cached": tally.reported_cached,
                "output": tally.reported_output,
                "audioInput": tally.reported_audio_input,
                "audioOutput": tally.reported_audio_output,
                "audioAtTextPrices": self._as_text(keys),
                "dollars": self._money(keys, "reported"),
                "requestsWithout": tally.unreported,
            },
            "spared": {
                "input": tally.spared_input,
                "output": tally.spared_output,
                "dollars": self._money(keys, "spared"),
            },
        }

    def _dollars(self, keys: list[Key]) -> dict[str, Any] | None:
        """What it would have cost and did, input text, image and output apart, of models whose price is known; None
        where there is none of them."""
        before = {"text": 0.0, "image": 0.0, "output": 0.0}
        after = dict(before)
        priced = self._priced(keys)
        for model, tally in priced:
            before["text"] += model.cost(tally.prompt_before + tally.text, 0)
            after["text"] += model.cost(tally.prompt_after + tally.text_after, 0)
            before["image"] += model.cost(tally.image, 0)
            after["image"] += model.cost(tally.image_after, 0)
            before["output"] += model.cost(0, tally.output_before)
            after["output"] += model.cost(0, tally.output_after)
        if not priced:
            return None
        parts = {name: _change(before[name], after[name]) for name in before}
        return {**_change(sum(before.values()), sum(after.values())), **parts}

    def _priced(self, keys: list[Key]) -> list[tuple[Model, Tally]]:
        priced = ((self.models.known.get(key[2]), self.tallies[key]) for key in keys)
        return [(model, tally) for model, tally in priced if model is not None]

    def _money(self, keys: list[Key], book: str) -> float | None:
        costs = []
        for model, tally in self._priced(keys):
            names = ("input", "output", "cached", "audio_input", "audio_output")
            costs.append(model.cost(*(getattr(tally, f"{book}_{name}", 0) for name in names)))
        return round(sum(costs), 6) if costs else None

    def _as_text(self, keys: list[Key]) -> int:
        """Reported tokens of audio whose models have no prices of audio: they are reckoned as text."""
        return sum(
            tally.reported_audio_input + tally.reported_audio_output
            for model, tally in self._priced(keys)
            if model.audio is None
        )

    # -- outlasting a restart

    def as_saved(self) -> dict[str, Any]:
        """JSON for `restore`."""
        return {"version": VERSION, "tallies": [[*key, asdict(tally)] for key, tally in self.tallies.items()]}

    def restore(self, saved: object) -> bool:
        """Take over what was saved; False, and nothing is changed, where it is nothing of this version."""
        if not isinstance(saved, dict) or saved.get("version") != VERSION:
            return False
        tallies: dict[Key, Tally] = {}
        try:
            for day, template, model, sums in saved["tallies"]:
                if date.fromisoformat(day).isoformat() != day or not isinstance(template, str) or not _is_tally(sums):
                    return False
                # models that a new table does not know become one
                tallies.setdefault((day, template, self.models.label(model)), Tally()).add(Tally(**sums))
        except (AttributeError, KeyError, TypeError, ValueError):
            return False
        self.tallies = tallies
        return True


def day_of(now: float) -> str:
    """The day in UTC."""
    return datetime.fromtimestamp(now, UTC).date().isoformat()


def _count(value: object) -> int | None:
    return value if isinstance(value, int) and not isinstance(value, bool) and value >= 0 else None


def tokens_in(usage: Mapping[str, Any], name: str) -> int | None:
    """A number of tokens that a `usage` states of one answer; None where it states none."""
    count = _count(usage.get(name))
    return count if count is not None and count <= MOST_TOKENS else None


def _is_tally(sums: object) -> bool:
    return isinstance(sums, dict) and set(sums) | _LATER == _SUMS and None not in map(_count, sums.values())


def _change(before: float, after: float) -> dict[str, Any]:
    saved = before - after
    return {
        "before": round(before, 6),
        "after": round(after, 6),
        "saved": round(saved, 6),
        "savedShare": f"{100 * saved / before:.1f}%" if before else None,
    }


def in_words(total: Tally, shown: Mapping[str, Any]) -> str:
    """What the figures say, the small ones as well. shown -- the same sums as they are told."""
    said = _of_prompts(total, shown) if total.prompt_before else ["no prompt was recognised yet"]
    if total.never_asked:
        dollars = shown["spared"]["dollars"]
        worth = f", worth ${dollars:,.2f}" if dollars is not None else ""
        said.append(f"{counted(total.never_asked, 'answer')} given without asking{worth}")
    if total.unknown_images:
        said.append(f"{counted(total.unknown_images, 'image')} of unknown size not counted")
    if as_text := shown["reported"]["audioAtTextPrices"]:
        said.append(f"{counted(as_text, 'token')} of audio reckoned at the price of text")
    return "; ".join(said)


def _of_prompts(total: Tally, shown: Mapping[str, Any]) -> list[str]:
    estimated = shown["estimated"]
    image = (
        f"images are {100 * total.image / estimated['input']['before']:.0f}% of the input, so " if total.image else ""
    )
    said = [f"the template has {_fewer(estimated['prompt'])}", f"{image}the input has {_fewer(estimated['input'])}"]
    if total.output_before:
        said.append(f"answers have {_fewer(estimated['output'])}")
    dollars = estimated["dollars"]
    if dollars is not None and dollars["savedShare"] is not None:
        less = "less" if dollars["saved"] >= 0 else "more"
        without = f", {counted(shown['unpriced'], 'request')} without a price left out" if shown["unpriced"] else ""
        said.append(f"together the whole bill is {dollars['savedShare'].lstrip('-')} {less}{without}")
    return said


def _fewer(change: Mapping[str, Any]) -> str:
    return f"{change['savedShare'].lstrip('-')} {'fewer' if change['saved'] >= 0 else 'more'} tokens"
