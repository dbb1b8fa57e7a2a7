"""The parts of aiohttp that are not promised, held to what `proxy.server.protocol` needs of them."""

from __future__ import annotations

import inspect
import re

import pytest
from aiohttp import streams, web, web_protocol

from proxy.server import protocol

OWNERS: dict[str, type] = {
    "RequestHandler": web_protocol.RequestHandler,
    "BaseRequest": web.BaseRequest,
    "Server": web.Server,
    "StreamReader": streams.StreamReader,
}


def _names(owner: type) -> set[str]:
    """What instances of `owner` have: methods, slots, and what its methods assign."""
    assigned = re.findall(r"self\.(\w+)", inspect.getsource(owner))
    return {name for kind in owner.__mro__ for name in [*vars(kind), *getattr(kind, "__slots__", ())]}.union(assigned)


@pytest.mark.parametrize(
    ("owner", "name"), [(owner, name) for owner, names in protocol.INTERNALS.items() for name in names]
)
def test_the_installed_aiohttp_still_has_it(owner: str, name: str) -> None:
    assert name in _names(OWNERS[owner])


def test_every_private_name_that_is_used_is_listed() -> None:
    source = inspect.getsource(protocol)
    own = set(re.findall(r"self\.(_\w+)(?:: .*)? [+]?= ", source))
    listed = {name for names in protocol.INTERNALS.values() for name in names}
    foreign = set().union(*(_names(owner) for owner in OWNERS.values()))
    used = set(re.findall(r"\.(_[a-z]\w*)", source))
    assert used & foreign - own <= listed


def test_no_content_is_told_apart_by_identity() -> None:
    assert vars(protocol)["EMPTY_PAYLOAD"] is streams.EMPTY_PAYLOAD
