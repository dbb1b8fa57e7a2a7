"""What makes a rule private is a credential to the cache as well: two lists, since neither side imports the other."""

from __future__ import annotations

import pytest

from config.rule import CREDENTIAL_FIELDS
from proxy.policy.cache_key import credential_fields
from proxy.policy.messages import Fields, RequestHead


@pytest.mark.parametrize("name", sorted(CREDENTIAL_FIELDS))
def test_the_cache_knows_every_credential_field_of_the_rules(name: str) -> None:
    head = RequestHead("GET", "/", Fields([("Host", "app.example"), (name.title(), "secret")]))
    assert credential_fields(head) == (name,)


def test_other_fields_are_no_credentials() -> None:
    assert credential_fields(RequestHead("GET", "/", Fields([("Accept-Language", "de"), ("X-Tenant", "7")]))) == ()
