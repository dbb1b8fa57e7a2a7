"""`siding rollback` as a process."""

from __future__ import annotations

from tests.deploy.processes import Child, environment, python

ROLLBACK = ("-m", "deploy", "rollback")
TOKEN = "geheim-token"  # noqa: S105 - of this test


async def rollback(*options: str, token: str | None = TOKEN, **environ: str) -> Child:
    given = {**environ, **({"ADMIN_TOKEN": token} if token else {})}
    async with python(*ROLLBACK, *options, environ=environment(**given)) as child:
        await child.end()
    assert "Traceback" not in child.output
    return child
