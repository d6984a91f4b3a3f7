"""One process: bind rooms, start, say where it is, wait for a signal, stop."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import importlib
import os
import signal
import sys
from collections.abc import Sequence

from services.common.app import App
from services.common.logs import configure
from services.common.settings import ROOMS, Settings

# Rooms are bound so that a room's callee is there first.
ORDER = ("cluster", "state", "sync", "chat", "edge", "discord")


async def compose(app: App) -> App:
    """Bind the app's rooms. Nothing runs until app.start()."""
    for room in ORDER:
        if room in app.rooms:
            server = importlib.import_module(f"services.{room}.server")
            await server.bind(app)
    return app


async def run(settings: Settings, rooms: Sequence[str], *, demo: bool) -> int:
    """Run until SIGINT or SIGTERM; a second signal leaves at once."""
    # The demo's narration shares the terminal with the log: leave the log what needs attention.
    configure("warning" if demo and settings.log_level == "info" else settings.log_level, settings.log_format)
    app = App(settings, rooms, network=bool(settings.store) or not set(rooms) >= set(ROOMS))
    stopping = asyncio.Event()
    _on_signals(stopping)
    try:
        await compose(app)
        await app.start()
        _settle_memory()
        _announce(settings, rooms)
        await _until_stopped(settings, stopping, demo=demo and "edge" in rooms)
    finally:
        await app.stop()
    print("Earshot stopped.", flush=True)
    return 0


def _settle_memory() -> None:
    """Take what start-up made out of the cycle collector's sight, and let it look less often.

    World documents are many small objects that live long: walking them again and again cost a tenth of the snapshot
    path's CPU and most of its p99 (docs/decisions, the snapshot's hot path).
    """
    gc.collect()
    gc.freeze()
    gc.set_threshold(20_000, 5, 400)


def _on_signals(stopping: asyncio.Event) -> None:
    loop = asyncio.get_running_loop()

    def stop() -> None:
        if stopping.is_set():
            raise SystemExit(130)
        stopping.set()

    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, stop)


def _announce(settings: Settings, rooms: Sequence[str]) -> None:
    if "edge" in rooms:
        host, _, port = settings.listen.rpartition(":")
        shown = "127.0.0.1" if host in ("", "0.0.0.0", "::") else host
        print(f"Earshot is up: http://{shown}:{port}/  (Ctrl-C stops it)", flush=True)
    else:
        addresses = ", ".join(f"{room} on {settings.address(room)}" for room in rooms)
        print(f"Earshot is up: {addresses}  (Ctrl-C stops it)", flush=True)


async def _until_stopped(settings: Settings, stopping: asyncio.Event, *, demo: bool) -> None:
    if not demo:
        await stopping.wait()
        return
    from services.demo.driver import drive

    host, _, port = settings.listen.rpartition(":")
    driving = asyncio.create_task(
        drive(f"http://{host or '127.0.0.1'}:{port}", out=sys.stdout, key=os.environ.get("EARSHOT_KEY", "")),
        name="demo",
    )
    waiting = asyncio.create_task(stopping.wait(), name="signal")
    done, _ = await asyncio.wait((driving, waiting), return_when=asyncio.FIRST_COMPLETED)
    if driving in done:
        # A demo that ended or failed must not take the services with it.
        if (error := driving.exception()) is not None:
            print(f"The demo stopped: {type(error).__name__}: {error}. Earshot goes on.", file=sys.stderr, flush=True)
        await waiting
        return
    driving.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await driving
