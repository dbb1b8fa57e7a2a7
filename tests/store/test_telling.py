"""What is told and not yet read in the log: against a model that knows what became of each notice."""

from __future__ import annotations

from dataclasses import dataclass

from hypothesis import given
from hypothesis import strategies as st

from config.bulletin import Standing
from proxy.store.invalidations import Validity
from proxy.store.telling import ALL, MOST_STEPS, MOST_WAITING, Notice, Telling

URI = "http://a/x"
CONCERN: list[Notice] = [("uri", URI, False), ("uri", "/x", False), ("tag", "t", False), ("prefix", "/", False)]
OTHER: list[Notice] = [("uri", "/y", False), ("tag", "u", False)]


def at(number: int, log: str = "log") -> Standing:
    return Standing(log, number)


@dataclass
class Told:
    """A notice. number -- in the log; None until it is there."""

    notice: Notice
    number: int | None = None


steps = st.lists(
    st.one_of(
        st.tuples(st.just("told"), st.sampled_from(CONCERN + OTHER)),
        st.tuples(st.just("between"), st.none()),
        # how many of those that are not in the log yet get there, after how many of others
        st.tuples(st.just("logged"), st.tuples(st.integers(0, 3), st.integers(0, 2))),
        st.tuples(st.just("read"), st.integers(0, 4)),
    ),
    max_size=30,
)


@given(steps, st.integers(0, 5))
def test_what_can_be_read_in_the_log_is_left_to_it_and_nothing_else(
    steps: list[tuple[str, object]], begin: int
) -> None:
    telling, told = Telling(begin), [Told(OTHER[0], 0) for _ in range(begin)]
    last = position = 0
    for step in steps:
        match step:
            case "told", (str(what), str(name), bool(soft)):
                notice = what, name, soft
                told.append(Told(notice))
                telling.note(notice, at(position))
            case "between", _:
                # flags, which get a number as well
                told.append(Told(OTHER[0]))
                telling.skip(len(told))
            case "logged", (int(many), int(others)):
                last += others
                waiting = [one for one in told if one.number is None][:many]
                for one in waiting:
                    last += 1
                    one.number = last
                telling.logged(sum(one.number is not None for one in told), at(last))
            case "read", int(many):
                position = min(last, position + many)
        assert telling.count == len(told)
        for number in range(last + 1):
            concerned = [one for one in told if one.notice in CONCERN and (one.number is None or one.number > position)]
            found = telling.state(URI, ("t",), at(number), at(position))
            if any(one.number is None for one in concerned):
                assert found is Validity.GONE
            elif found is Validity.GONE:
                # one of a batch is told apart from the next only by the batch's last number
                assert any(one.number is not None and one.number > position for one in told)
            else:
                assert not any(one.number is not None and one.number > number for one in concerned)
    telling.logged(len(told), at(last))
    assert telling.state(URI, ("t",), at(0), at(last)) is Validity.VALID
    assert telling.take_waiting(at(last)) == []


def test_what_waits_is_bounded() -> None:
    telling = Telling()
    for number in range(MOST_WAITING + 1):
        telling.note(("tag", str(number), False), at(0))
    telling.note(("tag", "t", False), at(0))
    telling.logged(MOST_WAITING, at(1))
    assert telling.take_waiting(at(1)) == [(ALL, "", False), ("tag", "t", False)]
    assert telling.take_waiting(at(1)) == []
    assert telling.state(URI, ("t",), at(1), at(1)) is Validity.GONE


def test_what_was_told_to_another_log_is_lost_once() -> None:
    telling = Telling()
    for tag in ("t", "u", "v"):
        telling.note(("tag", tag, False), at(0))
    telling.logged(1, at(1_000))
    telling.logged(2, at(7, "next"))
    assert telling.lost("next") == [("tag", "t", False)]
    assert telling.lost("third") == [("tag", "u", False)]
    assert telling.take_waiting(at(0)) == [("tag", "v", False)]
    assert telling.state(URI, ("t",), at(6, "next"), at(6, "next")) is Validity.GONE


def test_what_was_told_to_another_log_counts_until_its_teller_comes_to_this_one() -> None:
    telling = Telling()
    for tag in ("t", "u", "v"):
        telling.note(("tag", tag, False), at(0))
    telling.logged(1, at(1_000))
    telling.logged(2, at(7, "next"))
    assert telling.state(URI, ("t",), at(6, "next"), at(6, "next")) is Validity.GONE
    assert telling.state(URI, ("t",), at(7, "next"), at(6, "next")) is Validity.VALID
    assert telling.state(URI, ("u",), at(6, "next"), at(7, "next")) is Validity.VALID
    assert telling.state(URI, ("v",), at(7, "next"), at(7, "next")) is Validity.GONE
    telling.logged(3, at(8, "next"))
    assert telling.state(URI, ("v",), at(7, "next"), at(8, "next")) is Validity.VALID


def test_what_was_told_before_a_log_was_known_is_given_up() -> None:
    telling = Telling()
    for tag in ("t", "u"):
        telling.note(("tag", tag, False), at(0))
    telling.give_up(1)
    assert telling.state(URI, ("t",), at(6), at(6)) is Validity.VALID
    assert telling.state(URI, ("u",), at(6), at(6)) is Validity.GONE


def test_steps_are_bounded() -> None:
    telling = Telling()
    for number in range(1, MOST_STEPS + 10):
        telling.note(("tag", "t", False), at(0))
        telling.logged(number, at(number, "elsewhere"))
    assert len(telling._steps) == MOST_STEPS
    telling.logged(MOST_STEPS + 9, at(1))
    assert telling.state(URI, ("t",), at(1), at(1)) is Validity.VALID
    assert not telling._steps
