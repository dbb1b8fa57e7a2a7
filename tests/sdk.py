"""The vendor's SDK, as those who ask a monitor or a simulator use it."""

from __future__ import annotations

import ssl
from typing import Any

import openai

PLAIN = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
"""Trusts nobody: to load whom one trusts takes half of what a test does, and all that is asked here is `http`."""


def sdk(url: str, key: str = "sk-test", **options: Any) -> openai.AsyncOpenAI:
    """One that asks once."""
    client = openai.DefaultAsyncHttpxClient(verify=PLAIN)
    return openai.AsyncOpenAI(api_key=key, base_url=url, max_retries=0, http_client=client, **options)
