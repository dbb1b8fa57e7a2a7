"""The books: before, after and saved; estimated and reported apart; the image and the whole bill told as they are."""

from __future__ import annotations

import json
from dataclasses import fields
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pool_monitor.grading.accounting import DAYS, Accounts, Tally, Usage, asked, passed, spared
from pool_monitor.grading.models import OTHER, Models, load_models

MODELS = load_models()
DAY = 86_400.0
USAGE = Usage(input=26_000, cached=1000, output=409)

tallies = st.builds(Tally, **{one.name: st.integers(0, 10**6) for one in fields(Tally)})


def one(**changes: Any) -> Tally:
    """The plan's request: its prompt, a high-detail image of a page, ten questions."""
    given = {
        "prompt_before": 356,
        "prompt_after": 142,
        "text": 44,
        "image": 25_501,
        "image_after": 25_501,
        "unknown_images": 0,
        "output_before": 1387,
        "output_after": 409,
        "usage": USAGE,
        "asked_again": False,
    }
    return asked(**{**given, **changes})


def test_the_plans_request() -> None:
    accounts = Accounts(MODELS)
    accounts.add(0.0, "homework-grading", "gpt-4o-mini-2024-07-18", one())
    told = accounts.document()
    estimated = told["estimated"]
    assert estimated["prompt"] == {"before": 356, "after": 142, "saved": 214, "savedShare": "60.1%"}
    assert estimated["input"]["savedShare"] == "0.8%"
    assert estimated["output"] == {"before": 1387, "after": 409, "saved": 978, "savedShare": "70.5%"}
    before = (356 + 44 + 25_501) * 0.15e-6 + 1387 * 0.6e-6
    after = (142 + 44 + 25_501) * 0.15e-6 + 409 * 0.6e-6
    assert estimated["dollars"]["before"] == pytest.approx(before, abs=1e-6)
    assert estimated["dollars"]["after"] == pytest.approx(after, abs=1e-6)
    assert estimated["dollars"]["image"]["savedShare"] == "0.0%"
    assert told["reported"] == {
        "input": 26_000,
        "cached": 1000,
        "output": 409,
        "audioInput": 0,
        "audioOutput": 0,
        "audioAtTextPrices": 0,
        "dollars": pytest.approx((25_000 * 0.15 + 1000 * 0.075 + 409 * 0.6) / 1e6, abs=1e-6),
        "requestsWithout": 0,
    }
    assert told["inWords"] == (
        "the template has 60.1% fewer tokens; images are 98% of the input, so the input has 0.8% fewer tokens; "
        "answers have 70.5% fewer tokens; together the whole bill is 13.1% less"
    )
    assert told["days"][0]["day"] == "1970-01-01"
    assert told["days"][0]["model"] == "gpt-4o-mini"


def test_what_is_asked_again_counts_against_the_savings() -> None:
    accounts = Accounts(MODELS)
    accounts.add(0.0, "t", "gpt-4o-mini", one(asked_again=True))
    estimated = accounts.document()["estimated"]
    assert estimated["prompt"]["saved"] == -142
    assert estimated["image"]["saved"] == -25_501
    assert estimated["output"]["saved"] == -409
    assert estimated["dollars"]["saved"] < 0
    assert "answers have 29.5% more tokens; together the whole bill is 86.9% more" in accounts.document()["inWords"]


def test_in_words_without_an_answer() -> None:
    accounts = Accounts(MODELS)
    accounts.add(0.0, "t", "gpt-4o-mini", one(output_before=0, output_after=0, image=0, image_after=0))
    assert accounts.document()["inWords"] == (
        "the template has 60.1% fewer tokens; the input has 53.5% fewer tokens; together the whole bill is 53.5% less"
    )


def test_a_bill_says_what_is_not_in_it() -> None:
    accounts = Accounts(MODELS)
    accounts.add(0.0, "t", "gpt-4o-mini", one())
    accounts.add(0.0, "t", "llama-of-somebody's", one())
    told = accounts.document()
    assert told["unpriced"] == 1
    assert [day["unpriced"] for day in told["days"]] == [1, 0]
    assert told["inWords"].endswith("the whole bill is 13.1% less, 1 request without a price left out")


def test_what_is_never_asked_stands_by_itself() -> None:
    accounts = Accounts(MODELS)
    accounts.add(0.0, "t", "gpt-4o-mini", spared(USAGE))
    accounts.add(0.0, "t", "gpt-4o-mini", spared(None))
    told = accounts.document()
    assert (told["requests"], told["neverAsked"]) == (2, 2)
    assert told["spared"]["input"] == 26_000
    assert told["reported"]["input"] == 0
    assert told["estimated"]["input"]["before"] == 0
    assert told["inWords"] == "no prompt was recognised yet; 2 answers given without asking, worth $0.00"


def test_of_what_is_left_as_it_is_only_the_report_is_known() -> None:
    accounts = Accounts(MODELS)
    accounts.add(0.0, "none", "gpt-4o", passed(USAGE))
    accounts.add(0.0, "none", "gpt-4o", passed(None))
    told = accounts.document()
    assert (told["reported"]["output"], told["reported"]["requestsWithout"]) == (409, 1)
    assert told["inWords"] == "no prompt was recognised yet"


def test_a_model_without_a_price_has_no_cost() -> None:
    accounts = Accounts(MODELS)
    accounts.add(0.0, "t", "llama-of-somebody's", one(unknown_images=2))
    told = accounts.document()
    assert told["days"][0]["model"] == OTHER
    assert told["estimated"]["dollars"] is None
    assert told["reported"]["dollars"] is None
    assert told["inWords"].endswith("; 2 images of unknown size not counted")
    assert "bill" not in told["inWords"]


def test_each_tier_of_service_has_its_price_or_none() -> None:
    accounts = Accounts(MODELS)
    for tier in ("", "default", "auto", "flex", "priority", "scale"):
        accounts.add(0.0, "t", MODELS.label("gpt-5-2025-08-07", tier), passed(Usage(1_000_000, 0, 0)))
    told = accounts.document()
    days = {day["model"]: (day["requests"], day["reported"]["dollars"]) for day in told["days"]}
    assert days == {"gpt-5": (3, 3.75), "gpt-5 flex": (1, 0.625), "gpt-5 priority": (1, 2.5), "gpt-5 scale": (1, None)}
    assert told["unpriced"] == 1
    again = Accounts(MODELS)
    assert again.restore(json.loads(json.dumps(accounts.as_saved())))
    assert again.document() == told


def test_audio_has_prices_of_its_own() -> None:
    accounts = Accounts(MODELS)
    usage = Usage(input=700, cached=0, output=1_300, audio_input=600, audio_output=1_200)
    accounts.add(0.0, "none", "gpt-audio-2025-08-28", passed(usage))
    told = accounts.document()
    reported = told["reported"]
    assert reported["dollars"] == pytest.approx((100 * 2.5 + 600 * 32 + 100 * 10 + 1_200 * 64) / 1e6, abs=1e-6)
    assert (reported["input"], reported["output"]) == (700, 1_300)
    assert (reported["audioInput"], reported["audioOutput"], reported["audioAtTextPrices"]) == (600, 1_200, 0)
    accounts.add(0.0, "none", "gpt-audio", spared(usage))
    assert accounts.document()["spared"]["dollars"] == reported["dollars"]


def test_audio_without_a_price_is_reckoned_as_text_and_that_is_told() -> None:
    accounts = Accounts(MODELS)
    for model in ("gpt-4o", "gpt-audio", "llama-of-somebody's"):
        accounts.add(0.0, "none", model, passed(Usage(100, 0, 50, audio_input=60, audio_output=40)))
    told = accounts.document()
    assert {day["model"]: day["reported"]["audioAtTextPrices"] for day in told["days"]} == {
        "gpt-4o": 100,
        "gpt-audio": 0,
        "other": 0,
    }
    assert told["days"][-1]["reported"]["dollars"] == pytest.approx((100 * 2.5 + 50 * 10) / 1e6, abs=1e-6)
    assert told["inWords"] == "no prompt was recognised yet; 100 tokens of audio reckoned at the price of text"


def test_books_that_were_saved_before_audio_was_known_are_taken_over() -> None:
    accounts, again = Accounts(MODELS), Accounts(MODELS)
    accounts.add(0.0, "t", "gpt-4o", passed(USAGE))
    saved = accounts.as_saved()
    for *_, sums in saved["tallies"]:
        for name in [name for name in sums if "_audio_" in name]:
            del sums[name]
    assert again.restore(saved)
    assert again.document() == accounts.document()


def test_days_are_kept_for_a_while() -> None:
    accounts = Accounts(MODELS)
    for day in range(DAYS + 10):
        accounts.add(day * DAY, "t", "gpt-4o", one())
    told = accounts.document()
    assert len(told["days"]) == told["requests"] == DAYS
    assert told["days"][-1]["day"] == "1970-01-11"


@given(
    st.lists(
        st.tuples(st.integers(0, 5), st.sampled_from(["gpt-4o", "gpt-4o-mini priority", "x"]), tallies), max_size=12
    )
)
def test_days_sum_up_to_the_total(added: list[tuple[int, str, Tally]]) -> None:
    accounts = Accounts(MODELS)
    for day, model, tally in added:
        accounts.add(day * DAY, "t", model, tally)
    told = accounts.document()
    for name in ("prompt", "text", "image", "input", "output"):
        for figure in ("before", "after", "saved"):
            assert told["estimated"][name][figure] == sum(day["estimated"][name][figure] for day in told["days"])
        assert told["estimated"][name]["saved"] == told["estimated"][name]["before"] - told["estimated"][name]["after"]
    again = Accounts(MODELS)
    assert again.restore(json.loads(json.dumps(accounts.as_saved())))
    assert again.document() == told


@pytest.mark.parametrize(
    "saved",
    [
        None,
        [],
        {},
        {"version": 2, "tallies": []},
        {"version": 1},
        {"version": 1, "tallies": 7},
        {"version": 1, "tallies": [["1970-01-01", "t", "m", {}]]},
        {"version": 1, "tallies": [["yesterday", "t", "m", {one.name: 1 for one in fields(Tally)}]]},
        {"version": 1, "tallies": [["1970-01-01", "t", "m", {one.name: "1" for one in fields(Tally)}]]},
        {"version": 1, "tallies": [["1970-01-01", "t", "m", {one.name: -1 for one in fields(Tally)}]]},
        {"version": 1, "tallies": [["1970-01-01", "t", "m", [one.name for one in fields(Tally)]]]},
        {"version": 1, "tallies": [["1970-01-01", "t", "m", None]]},
        {"version": 1, "tallies": [["19700101", "t", "m", {one.name: 1 for one in fields(Tally)}]]},
        {"version": 1, "tallies": [[1, "t", "m", {one.name: 1 for one in fields(Tally)}]]},
        {"version": 1, "tallies": [["1970-01-01", "t", 7, {one.name: 1 for one in fields(Tally)}]]},
        {"version": 1, "tallies": [["1970-01-01", ["t"], "m", {one.name: 1 for one in fields(Tally)}]]},
    ],
)
def test_what_is_no_book_is_not_taken_over(saved: object) -> None:
    accounts = Accounts(MODELS)
    accounts.add(0.0, "t", "gpt-4o", one())
    assert not accounts.restore(saved)
    assert accounts.document()["requests"] == 1


def test_books_outlast_a_table_that_knows_fewer_models() -> None:
    accounts = Accounts(MODELS)
    accounts.add(0.0, "t", "gpt-4o", one())
    accounts.add(0.0, "t", "gpt-4o-mini", one())
    again = Accounts(Models({}, MODELS.as_of))
    assert again.restore(accounts.as_saved())
    told = again.document()
    assert [(day["model"], day["requests"]) for day in told["days"]] == [(OTHER, 2)]
    assert told["reported"]["input"] == 2 * USAGE.input


@pytest.mark.parametrize(
    ("usage", "read"),
    [
        (None, None),
        ({}, None),
        ({"prompt_tokens": 1}, None),
        ({"prompt_tokens": "1", "completion_tokens": 2}, None),
        ({"prompt_tokens": True, "completion_tokens": 2}, None),
        ({"prompt_tokens": -1, "completion_tokens": 2}, None),
        ({"prompt_tokens": 1, "completion_tokens": 2**64 - 1}, None),
        ({"prompt_tokens": 1, "completion_tokens": 2}, Usage(1, 0, 2)),
        ({"prompt_tokens": 1, "completion_tokens": 2, "prompt_tokens_details": {"cached_tokens": 9}}, Usage(1, 1, 2)),
        ({"prompt_tokens": 1, "completion_tokens": 2, "prompt_tokens_details": None}, Usage(1, 0, 2)),
        ({"prompt_tokens": 9, "completion_tokens": 2, "prompt_tokens_details": {"cached_tokens": 4}}, Usage(9, 4, 2)),
        (
            {"prompt_tokens": 9, "completion_tokens": 2, "completion_tokens_details": {"audio_tokens": -1}},
            Usage(9, 0, 2),
        ),
        (
            {
                "prompt_tokens": 9,
                "completion_tokens": 5,
                "prompt_tokens_details": {"audio_tokens": 7, "cached_tokens": None},
                "completion_tokens_details": {"audio_tokens": 8},
            },
            Usage(9, 0, 5, 7, 5),
        ),
    ],
)
def test_usage(usage: Any, read: Usage | None) -> None:
    assert Usage.of(usage) == read
