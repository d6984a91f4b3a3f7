"""A whole Earshot in one process whose time a game moves: `earshot up`, but on `tests.fakes.driven_time`.

    EARSHOT_...=... python -m tests.e2e.driven_edge --control PORT --wall UNIX_SECONDS --target all [--model PORT]

Everything else is what `earshot up` starts: the same rooms, the same files, the same HTTP server on a real socket.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import signal
from typing import Any

from services.cli.process import compose
from services.common.app import App
from services.common.logs import configure
from services.common.settings import ROOMS, Settings
from services.edge import server
from tests.fakes.driven_time import DrivenClock, DrivenLoop
from tests.fakes.fake_model import FakeModel


async def up(loop: DrivenLoop, settings: Settings, port: int, model: int | None) -> None:
    stopping = asyncio.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, stopping.set)
    # The one seam: the application, on its way to the HTTP server.
    listener = server.listener  # type: ignore[attr-defined] # server imports it

    def noted(application: Any, *rest: Any) -> Any:
        return listener(loop.ledger.around(application), *rest)

    server.listener = noted  # type: ignore[attr-defined,assignment] # server imports it
    app = App(settings, ROOMS, clock=DrivenClock(loop), inline_stores=True)
    control = asyncio.create_task(loop.control(port))
    async with contextlib.AsyncExitStack() as stack:
        if model is not None:
            await stack.enter_async_context(FakeModel(port=model))
        try:
            await compose(app)
            await app.start()
            await stopping.wait()
        finally:
            control.cancel()
            await app.stop()


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--control", type=int, required=True)
    parser.add_argument("--wall", type=float, required=True)
    parser.add_argument("--target", choices=("all",), required=True)
    parser.add_argument("--model", type=int, help="port of a fake model in this process, on the same time")
    options = parser.parse_args()
    settings = Settings()
    if options.model is not None:
        base_url = f"http://127.0.0.1:{options.model}/v1"
        settings = settings.model_copy(update={"openai_base_url": base_url, "openai_api_key": "unused"})
    configure(settings.log_level, settings.log_format)
    with asyncio.Runner(loop_factory=lambda: DrivenLoop(options.wall)) as runner:
        loop = runner.get_loop()
        assert isinstance(loop, DrivenLoop)
        runner.run(up(loop, settings, options.control, options.model))


if __name__ == "__main__":
    main()
