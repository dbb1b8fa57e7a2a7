"""The live page: one document without outside assets, made once from the files beside this one."""

from __future__ import annotations

import base64
import hashlib
from pathlib import Path

from aiohttp import hdrs, web

FOLDER = Path(__file__).parent
SCRIPTS = ("figures.js", "page.js")


def _hash_of(text: str) -> str:
    """As a Content-Security-Policy names an inline script or style."""
    return f"'sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}'"


def policy(style: str, script: str) -> str:
    """What a browser may do with the page: this style, this script, calls of this listener, and nothing else."""
    return "; ".join(
        [
            "default-src 'none'",
            f"script-src {_hash_of(script)}",
            f"style-src {_hash_of(style)}",
            "img-src data:",
            "connect-src 'self'",
            "base-uri 'none'",
            "form-action 'none'",
            "frame-ancestors 'none'",
            "require-trusted-types-for 'script'",
        ]
    )


def _read(name: str) -> str:
    return (FOLDER / name).read_text(encoding="utf-8")


STYLE = _read("style.css")
SCRIPT = "\n".join(map(_read, SCRIPTS))
CONTENT = _read("page.html").replace("/*style*/", STYLE).replace("/*script*/", SCRIPT).encode()
FIELDS = {
    hdrs.CONTENT_TYPE: "text/html; charset=utf-8",
    hdrs.CACHE_CONTROL: "no-store",
    "Content-Security-Policy": policy(STYLE, SCRIPT),
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
}


async def answer_page(_: web.Request) -> web.StreamResponse:
    """`GET /` of the admin listener."""
    return web.Response(body=CONTENT, headers=FIELDS)
