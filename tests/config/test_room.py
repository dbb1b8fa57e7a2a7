"""Those for whom there is no room: how long they are borne."""

from __future__ import annotations

from dataclasses import dataclass
from typing import cast

import pytest

from config import room
from config.door import Door
from config.room import SENDING_SECONDS, TOLD_SECONDS, Room, had_its_time


@pytest.mark.parametrize(
    ("told", "heard", "seconds"),
    [(100.0, 0.0, TOLD_SECONDS), (100.0, 99.0, TOLD_SECONDS), (100.0, 100.5, SENDING_SECONDS)],
    ids=["never sent anything", "sent before it was told", "still sends"],
)
def test_who_still_sends_has_more_time(told: float, heard: float, seconds: float) -> None:
    assert not had_its_time(told, heard, told + seconds - 0.01)
    assert had_its_time(told, heard, told + seconds)


@dataclass(eq=False)
class Told:
    """A guest. heard -- long after it was told, or never."""

    heard: float = 0.0
    is_cut: bool = False
    idle: bool = True
    standing: tuple[bool, float] = (False, 0.0)

    def end_when_idle(self) -> None:
        raise AssertionError

    def cut(self) -> None:
        self.is_cut = True


class Shutter:
    """In place of a door. shut_for -- seconds, the last of which counts; 0: it is open."""

    def __init__(self) -> None:
        self.shut_for = [0.0]

    def shut(self, seconds: float) -> None:
        self.shut_for.append(seconds)

    def let_in(self) -> None:
        self.shut_for.append(0.0)


def a_room_for(most: int) -> tuple[Room, Shutter]:
    made, door = Room(most), Shutter()
    made.door = cast("Door", door)
    return made, door


def test_while_as_many_are_told_as_may_be_nobody_more_comes() -> None:
    made, door = a_room_for(32 * room.ROOM_SHARE)
    guests = [Told() for _ in range(33)]
    for guest in guests[:31]:
        made.tell(guest)
    assert door.shut_for[-1] == 0
    for guest in guests[31:]:
        made.tell(guest)
        assert door.shut_for[-1] == TOLD_SECONDS
    made.gone(guests[0])
    assert door.shut_for[-1] == TOLD_SECONDS
    made.gone(guests[1])
    assert door.shut_for[-1] == 0
    assert not any(guest.is_cut for guest in guests)


def test_those_who_had_their_time_are_cut_for_the_next(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(room, "TOLD_SECONDS", 0.0)
    made, _ = a_room_for(1)
    silent, sending = Told(), Told(heard=float("inf"))
    others = [Told() for _ in range(made.most_told - 1)]
    for guest in (silent, sending, *others[:-1]):
        made.tell(guest)
    assert [guest.is_cut for guest in (silent, sending)] == [False, False]
    made.tell(others[-1])
    assert [guest.is_cut for guest in (silent, sending)] == [True, False]
    assert made.outside == 1


def test_who_is_told_takes_no_room_and_makes_none() -> None:
    made, _ = a_room_for(1)
    told, within, newcomer = Told(), Told(idle=False), Told()
    made.tell(told)
    assert made.admit(within, [told, within])
    assert not made.admit(newcomer, [told, within, newcomer])
