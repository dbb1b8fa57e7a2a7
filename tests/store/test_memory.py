"""The in-memory store: what is kept, what goes first, and that the budget holds."""

from __future__ import annotations

import pytest

from proxy.store.memory import (
    GHOST_BYTES,
    KEY_BYTES,
    MAX_LOOKS,
    MAX_USES,
    MAX_VARIANTS,
    VARIANT_BYTES,
    MemoryStore,
    _Ghosts,
)
from proxy.store.weight import weigh
from tests.store.responses import stored

ROOMY = 10_000_000
ONE = KEY_BYTES + VARIANT_BYTES + weigh(stored("k000"))
"""What one small response under a key of four characters takes."""


def room_for(number: int) -> MemoryStore:
    return MemoryStore(ONE * number)


def name(number: int) -> str:
    return f"k{number:03d}"


def test_is_empty_at_first() -> None:
    store = MemoryStore(ROOMY)
    assert store.max_bytes == ROOMY
    assert (store.bytes, store.responses, store.evictions) == (0, 0, 0)


def test_get_returns_what_was_put() -> None:
    store, response = MemoryStore(ROOMY), stored("a")
    assert store.put(response) is True
    assert store.get("a") == (response,)
    assert store.get("b") == ()


def test_variants_stand_in_the_order_they_were_put() -> None:
    store = MemoryStore(ROOMY)
    responses = [stored("a", variant=language) for language in ("de", "en", "fr")]
    for response in responses:
        store.put(response)
    assert store.get("a") == tuple(responses)
    assert store.responses == 3


def test_an_equal_secondary_key_is_replaced_and_comes_last() -> None:
    store = MemoryStore(ROOMY)
    old, other, new = stored("a", variant="de"), stored("a", variant="en"), stored("a", variant="de")
    for response in (old, other, new):
        store.put(response)
    assert store.get("a") == (other, new)
    assert (store.responses, store.evictions) == (2, 0)


def test_variants_of_one_key_are_bounded() -> None:
    store = MemoryStore(ROOMY)
    responses = [stored("a", variant=str(number)) for number in range(MAX_VARIANTS + 3)]
    for response in responses:
        store.put(response)
    assert store.get("a") == tuple(responses[3:])
    assert (store.responses, store.evictions) == (MAX_VARIANTS, 3)


def test_variants_of_one_key_make_room_for_each_other() -> None:
    pair = [stored("a", variant=language, size=1000) for language in ("de", "en")]
    store = MemoryStore(KEY_BYTES + VARIANT_BYTES + weigh(pair[0]) + 10)
    for response in pair:
        assert store.put(response)
    assert store.get("a") == (pair[1],)
    assert store.evictions == 1


def test_variants_that_just_do_not_fit_together_do_not_stay_together() -> None:
    pair = [stored("a", variant=language) for language in ("de", "en")]
    store = MemoryStore(KEY_BYTES + 2 * (VARIANT_BYTES + weigh(pair[0])) - 1)
    for response in pair:
        store.put(response)
    assert store.get("a") == (pair[1],)
    assert store.bytes <= store.max_bytes


def test_the_queue_keeps_no_text_alive_but_the_latest_response_s() -> None:
    store = MemoryStore(ROOMY)
    responses = [stored("-".join(["a", "key"]), variant=language) for language in ("de", "en", "fr")]
    for response in responses:
        store.put(response)
        assert next(iter(store._small)).key is response.key
    store.remove(responses[2])
    assert next(iter(store._small)).key is responses[1].key


def test_what_cannot_fit_is_refused() -> None:
    store, other = room_for(2), stored("k001")
    store.put(other)
    assert store.put(stored("k002", size=3 * ONE)) is False
    assert store.get("k002") == ()
    assert store.get("k001") == (other,)


def test_what_cannot_fit_still_supersedes() -> None:
    store = room_for(3)
    other = stored("k001", variant="en")
    store.put(stored("k001", variant="de"))
    store.put(other)
    assert store.put(stored("k001", variant="de", size=4 * ONE)) is False
    assert store.get("k001") == (other,)


def test_nothing_fits_into_no_budget() -> None:
    store = MemoryStore(0)
    assert store.put(stored()) is False
    assert store.bytes == 0


def test_remove_takes_exactly_the_one() -> None:
    store = MemoryStore(ROOMY)
    first, second = stored("a", variant="de"), stored("a", variant="en")
    store.put(first)
    store.put(second)
    store.remove(stored("a", variant="de"))
    assert store.get("a") == (first, second)
    store.remove(second)
    assert store.get("a") == (first,)
    store.remove(first)
    store.remove(first)
    assert store.get("a") == ()
    assert (store.bytes, store.responses, store.evictions) == (0, 0, 0)


def test_a_coding_is_kept_and_weighed() -> None:
    store, response = MemoryStore(ROOMY), stored("a", size=2000)
    store.put(response)
    before = store.bytes
    assert store.add_coding(response, "br", b"y" * 500) is True
    assert response.codings == {"br": b"y" * 500}
    assert store.bytes - before >= 500 + 33
    store.remove(response)
    assert store.bytes == 0


def test_a_coding_keeps_its_response_in_its_place() -> None:
    store = MemoryStore(ROOMY)
    first, second = stored("a", variant="de"), stored("a", variant="en")
    store.put(first)
    store.put(second)
    assert store.add_coding(first, "gzip", b"z")
    assert store.get("a") == (first, second)


def test_a_coding_makes_room_for_itself() -> None:
    store = room_for(4)
    responses = [stored(name(number)) for number in range(4)]
    for response in responses:
        store.put(response)
    assert store.add_coding(responses[3], "br", b"y" * ONE)
    assert store.evictions >= 1
    assert store.bytes <= store.max_bytes
    assert store.get(name(3)) == (responses[3],)


def test_a_coding_that_cannot_fit_changes_nothing() -> None:
    store, response = room_for(2), stored("k001")
    store.put(response)
    store.add_coding(response, "gzip", b"small")
    before = store.bytes
    assert store.add_coding(response, "gzip", b"y" * 3 * ONE) is False
    assert response.codings == {"gzip": b"small"}
    assert store.bytes == before
    assert store.get("k001") == (response,)


@pytest.mark.parametrize("held", [False, True], ids=["unknown key", "superseded"])
def test_no_coding_for_what_is_not_there(held: bool) -> None:
    store, response = MemoryStore(ROOMY), stored("a")
    if held:
        store.put(response)
        store.put(stored("a"))
    assert store.add_coding(response, "br", b"y") is False
    assert response.codings == {}


def test_the_first_in_goes_first() -> None:
    store = room_for(3)
    for number in range(4):
        store.put(stored(name(number)))
    assert store.get(name(0)) == ()
    assert store.get(name(3)) != ()
    assert store.evictions >= 1


def test_what_was_used_twice_outlives_a_scan() -> None:
    store = room_for(20)
    wanted = stored("k000")
    store.put(wanted)
    store.get("k000")
    store.get("k000")
    for number in range(1, 200):
        store.put(stored(name(number)))
    assert store.get("k000") == (wanted,)


def test_one_use_is_not_enough() -> None:
    store = room_for(20)
    store.put(stored("k000"))
    store.get("k000")
    for number in range(1, 200):
        store.put(stored(name(number)))
    assert store.get("k000") == ()


def test_what_comes_back_soon_goes_to_main() -> None:
    store = room_for(20)
    for number in range(24):
        store.put(stored(name(number)))
    assert store.get(name(3)) == ()
    back = stored(name(3))
    store.put(back)
    for number in range(30, 90):
        store.put(stored(name(number)))
    assert store.get(name(3)) == (back,)


def with_full_main(keys: int) -> MemoryStore:
    """A store of `keys` keys, most of them in main with all uses spent, and no room left."""
    store = room_for(keys)
    number = 0
    while store.evictions == 0 or len(store._main) < keys * 4 // 5:
        store.put(stored(name(number)))
        store.get(name(number))
        store.get(name(number))
        number += 1
    return store


def press(store: MemoryStore, times: int) -> None:
    """Put keys that go to main at once, each pushing what comes first there out."""
    for number in range(times):
        key = f"n{number % 1000:03d}"
        store._ghosts.add(key, 10)
        store.put(stored(key))


def test_a_use_in_main_buys_one_more_round() -> None:
    store = with_full_main(20)
    first, second = [slot.key for slot in store._main][:2]
    store.get(first)
    press(store, 3)
    assert store.get(second) == ()
    assert store.get(first) != ()


def test_any_number_of_uses_buys_few_rounds() -> None:
    store = with_full_main(20)
    first = next(iter(store._main)).key
    for _ in range(100):
        store.get(first)
    press(store, (MAX_USES + 2) * 20)
    assert store.get(first) == ()


def test_uses_in_small_buy_no_rounds_in_main() -> None:
    store = room_for(20)
    number = 0
    while store.evictions == 0:
        store.put(stored(name(number)))
        for _ in range(2 if number else MAX_USES):
            store.get(name(number))
        number += 1
    assert number > 20
    assert store.get(name(0)) == ()


def test_ghosts_give_way_when_nothing_else_is_left() -> None:
    store = room_for(8)
    for number in range(30):
        store.put(stored(name(number)))
    large = stored("k999", size=ONE * 7 - 100)
    assert store.put(large) is True
    assert store.get("k999") == (large,)
    assert store.bytes <= store.max_bytes


def test_the_time_of_one_put_is_bounded() -> None:
    number_of_keys = 4 * MAX_LOOKS
    store = room_for(number_of_keys)
    for number in range(number_of_keys):
        store.put(stored(name(number)))
        for _ in range(MAX_USES):
            store.get(name(number))
    before = repr(store)
    assert store.put(stored("k999"))
    assert f"{number_of_keys} small, 0 main" in before
    assert f"{MAX_LOOKS} main" in repr(store)
    assert store.evictions >= 1


def test_the_time_of_one_put_is_bounded_in_main_too() -> None:
    store = with_full_main(4 * MAX_LOOKS)
    hot = [slot.key for slot in store._main]
    for key in hot * MAX_USES:
        store.get(key)
    store._ghosts.add("n000", 10)
    evictions = store.evictions
    store.put(stored("n000"))
    assert store.evictions > evictions
    untouched = [slot for slot in store._main if slot.key in hot and slot.uses == MAX_USES]
    assert len(untouched) >= len(hot) - MAX_LOOKS - 1


def test_ghosts_are_remembered_for_two_generations() -> None:
    ghosts = _Ghosts()
    for number in range(6):
        ghosts.add(name(number), limit=4)
    assert [ghosts.take(name(number)) for number in range(6)] == [False, False, True, True, True, True]
    assert ghosts.take(name(5)) is False
    assert len(ghosts) == 0


def test_ghosts_are_bounded_and_weighed() -> None:
    store = room_for(50)
    for number in range(900):
        store.put(stored(name(number)))
    held = store.responses * ONE
    ghosts = (store.bytes - held) / GHOST_BYTES
    assert 0 < ghosts <= 50
