"""Chat completions by the vendor's SDK, which adds nothing of its own to what the caller has sent."""

from __future__ import annotations

import ssl
from collections.abc import Mapping
from http.cookiejar import CookieJar, DefaultCookiePolicy
from typing import Any, cast

import aiohttp
import httpx2
import openai
from openai._vendor.httpx_aiohttp import AiohttpTransport

from pool_monitor.grading.calls import Fields
from pool_monitor.grading.wire import end_to_end, in_pieces

LARGE_BYTES = 1024 * 1024

_SET_HERE = frozenset(
    {
        "accept-encoding",
        "content-encoding",
        "content-length",
        "content-type",
        "expect",
        "host",
        "____stainless_override_cast_to",
    }
)
"""Fields that are written anew; the last is no field but a word between parts of the SDK."""
FAULTS = (openai.APIConnectionError, httpx2.HTTPError, aiohttp.ClientError, TimeoutError)
"""What is raised where there is no answer, or no more of it."""


class Vendor:
    """The SDK on a session of ours. connect_seconds -- for a connection; other bounds are the caller's."""

    def __init__(
        self, session: aiohttp.ClientSession, base: str, context: ssl.SSLContext, *, connect_seconds: float
    ) -> None:
        # with a session and a jar of the SDK's making, one caller's cookies would be sent with another's requests
        http_client = openai.DefaultAioHttpClient(
            transport=AiohttpTransport(client=session, verify=context),
            cookies=CookieJar(DefaultCookiePolicy(allowed_domains=())),
            follow_redirects=False,
            trust_env=False,
        )
        http_client.headers.clear()
        self._client = openai.AsyncOpenAI(
            api_key="sent with each request",
            base_url=base,
            http_client=http_client,
            max_retries=0,
            timeout=httpx2.Timeout(None, connect=connect_seconds, pool=connect_seconds),
        )
        own = (*self._client.default_headers, "Authorization", "X-Stainless-Retry-Count", "X-Stainless-Read-Timeout")
        self._unset: Mapping[str, str | openai.Omit] = dict.fromkeys(own, openai.Omit())

    async def close(self) -> None:
        """Close the session as well."""
        await self._client.close()

    async def post(self, fields: Fields, content: bytes, *, stream: bool) -> httpx2.Response:
        """The response, be it an error; a good one's content is still to come where it is streamed. Raises FAULTS."""
        headers: dict[str, str | openai.Omit] = {**self._unset, **_joined(fields)}
        headers |= {"Content-Type": "application/json", "Accept-Encoding": "identity"}
        large = len(content) > LARGE_BYTES
        if large:
            headers["Content-Length"] = str(len(content))
        try:
            answered: Any = await self._client.post(
                "/chat/completions",
                content=in_pieces(content) if large else content,
                cast_to=httpx2.Response,
                options={"headers": headers},
                stream=stream,
                stream_cls=openai.AsyncStream[Any],
            )
        except openai.APIStatusError as error:
            return error.response
        # a caller that used its SDK's raw responses has sent a field that this SDK obeys as well
        response = cast(httpx2.Response, getattr(answered, "http_response", answered))
        if not stream:
            await response.aread()
        return response


def _joined(fields: Fields) -> dict[str, str]:
    """Each field once (RFC 9110 5.3). Only ASCII, as the SDK can send no other."""
    joined: dict[str, str] = {}
    for name, value in end_to_end(fields, _SET_HERE):
        if value.isascii():
            joined[name.lower()] = f"{joined[name.lower()]}, {value}" if name.lower() in joined else value
    return joined
