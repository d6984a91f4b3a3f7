"""A chat room as a process of its own, with the neighbours it needs served beside it: for test_chat_room.

    python -m tests.integration.chat_room DATA CHAT_PORT STATE_PORT SYNC_PORT

Prints "ready" once it serves. The neighbours are the fakes of the unit tests, over sockets.
"""

from __future__ import annotations

import asyncio
import sys

import grpc
from earshot.state.v1 import state_pb2_grpc
from earshot.sync.v1 import sync_pb2_grpc

from services.chat import server
from services.common.app import App
from services.common.settings import Settings
from tests.unit.chat.neighbours import FakeState, FakeSync, Line


async def main(data: str, chat: str, state_port: str, sync_port: str) -> None:
    """Serve until killed."""
    state = FakeState()  # type: ignore[abstract]  # a fake of the part that chat calls
    sync = FakeSync(lambda _: Line(("One.", "Two.", "Three."), first_s=0.05, each_s=0.4))  # type: ignore[abstract]  # likewise
    state.move({"L1": ["mara", "brom", "p1", "p2"]})
    neighbours = grpc.aio.server()
    state_pb2_grpc.add_StateServiceServicer_to_server(state, neighbours)
    sync_pb2_grpc.add_SyncServiceServicer_to_server(sync, neighbours)
    neighbours.add_insecure_port(f"127.0.0.1:{state_port}")
    neighbours.add_insecure_port(f"127.0.0.1:{sync_port}")
    await neighbours.start()
    settings = Settings(
        _env_file=None,
        data=data,
        chat_addr=f"127.0.0.1:{chat}",
        state_addr=f"127.0.0.1:{state_port}",
        sync_addr=f"127.0.0.1:{sync_port}",
        greetings=False,
        record=True,
        player_messages_per_10s=1000,
    )
    app = App(settings, ("chat",), network=True)
    await server.bind(app)
    async with app:
        print("ready", flush=True)  # noqa: T201 - the parent waits for this line
        await asyncio.get_running_loop().create_future()


if __name__ == "__main__":
    asyncio.run(main(*sys.argv[1:]))
