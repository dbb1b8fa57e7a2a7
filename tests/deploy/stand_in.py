"""A part to try a stack with: says what it does, listens when told, and stops as it is told to.

python -m tests.deploy.stand_in NAME [--listen PORT] [--deaf] [--exit STATUS]
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import os
import signal
import sys


async def run(name: str, port: int | None, deaf: bool) -> None:
    asked = asyncio.Event()

    def on_term() -> None:
        print(f"{name} was asked to stop", flush=True)
        if not deaf:
            asked.set()

    loop = asyncio.get_running_loop()
    loop.add_signal_handler(signal.SIGTERM, on_term)
    loop.add_signal_handler(signal.SIGINT, lambda: print(f"{name} got a Ctrl-C", flush=True))
    print(f"{name} has pid {os.getpid()}", flush=True)
    async with contextlib.AsyncExitStack() as open_until_asked:
        if port is not None:
            server = await asyncio.start_server(lambda _, writer: writer.close(), "127.0.0.1", port)
            await open_until_asked.enter_async_context(server)
        await asked.wait()
    print(f"{name} has stopped", flush=True)


def main() -> int:
    parser = argparse.ArgumentParser()
    parser.add_argument("name")
    parser.add_argument("--listen", type=int)
    parser.add_argument("--deaf", action="store_true")
    parser.add_argument("--exit", type=int)
    options = parser.parse_args()
    if options.exit is not None:
        return int(options.exit)
    asyncio.run(run(options.name, options.listen, options.deaf))
    return 0


if __name__ == "__main__":
    sys.exit(main())
