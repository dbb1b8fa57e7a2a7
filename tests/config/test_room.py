"""Those for whom there is no room: how long they are borne."""

from __future__ import annotations

from dataclasses import dataclass

import pytest

from config.room import LEAST_TOLD, ROOM_SHARE, Room


@dataclass(eq=False)
class Told:
    """A guest."""

    is_cut: bool = False
    idle: bool = True
    standing: tuple[bool, float] = (False, 0.0)

    def end_when_idle(self) -> None:
        raise AssertionError

    def cut(self) -> None:
        self.is_cut = True


@pytest.mark.parametrize(("most", "told"), [(1, LEAST_TOLD), (100 * ROOM_SHARE, 100)])
def test_who_was_told_first_makes_room_for_the_next_to_be_told(most: int, told: int) -> None:
    made, guests = Room(most), [Told() for _ in range(told + 2)]
    for guest in guests[:told]:
        made.tell(guest)
    made.gone(guests[1])
    made.tell(guests[told])
    assert not any(guest.is_cut for guest in guests)
    made.tell(guests[told + 1])
    assert [guest.is_cut for guest in guests] == [True, *[False] * (told + 1)]
    assert made.outside == told


def test_who_is_told_takes_no_room_and_makes_none() -> None:
    made = Room(1)
    told, within, newcomer = Told(), Told(idle=False), Told()
    made.tell(told)
    assert made.admit(within, [told, within])
    assert not made.admit(newcomer, [told, within, newcomer])
