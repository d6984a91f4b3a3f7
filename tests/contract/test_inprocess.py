"""The in-process stub keeps what real gRPC does, and mutual TLS changes none of it: one suite over all three."""

from __future__ import annotations

import asyncio
import atexit
import datetime
import shutil
import tempfile
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from functools import cache
from pathlib import Path
from typing import Any

import grpc
import pytest
from earshot.chat.v1 import chat_pb2, chat_pb2_grpc
from earshot.state.v1 import state_pb2, state_pb2_grpc

from services.cli.certs import issue
from services.common import tls
from services.common.channels import remote
from services.common.errors import (
    BadInput,
    Conflict,
    DeadlineExceeded,
    EarshotError,
    Internal,
    NotOwner,
    Overloaded,
    Unavailable,
    from_rpc,
)
from services.common.inprocess import STREAM_WINDOW, InProcessServer
from services.common.interceptors import RoomInterceptor
from services.common.telemetry import Metrics

pytestmark = pytest.mark.real_time
MODES = ("inprocess", "grpc", "tls")


class Chat(chat_pb2_grpc.ChatServiceServicer):
    """Behaves as the request's text says, and records what it sees."""

    def __init__(self) -> None:
        self.cancelled = asyncio.Event()
        self.entered = asyncio.Event()
        self.sent = 0
        self.asked = 0

    async def ListEvents(self, request: chat_pb2.ListEventsRequest, context: Any) -> chat_pb2.ListEventsResponse:
        """A read, which channels may repeat: fails the first time, for good when the page size is 1."""
        self.asked += 1
        if request.page_size == 1:
            raise Unavailable("not yet", reason="REVISION_UNKNOWN", retry_after_ms=1000)
        if self.asked == 1:
            raise Unavailable("starting", reason="NOT_READY")
        return chat_pb2.ListEventsResponse(next_cursor=self.asked)

    async def Say(self, request: chat_pb2.SayRequest, context: Any) -> chat_pb2.SayResponse:
        self.entered.set()
        try:
            match request.text:
                case "metadata":
                    seen = dict(context.invocation_metadata())
                    context.set_trailing_metadata((("answer", "42"),))
                    return chat_pb2.SayResponse(reason=str(seen["question"]))
                case "remaining":
                    return chat_pb2.SayResponse(log_seq=round(context.time_remaining() * 1000))
                case "hang":
                    await asyncio.sleep(60)
                case "stale":
                    raise Conflict("gone", reason="STALE_EPOCH")
                case "busy":
                    raise Overloaded("later", retry_after_ms=1500)
                case "owner":
                    raise NotOwner("10.0.0.7:50054")
                case "defect":
                    raise RuntimeError("secret detail")
                case "abort":
                    await context.abort(grpc.StatusCode.PERMISSION_DENIED, "no", (("why", "because"),))
        except asyncio.CancelledError:
            self.cancelled.set()
            raise
        return chat_pb2.SayResponse(reason="done")


class State(state_pb2_grpc.StateServiceServicer):
    """Streams as asked; what happens to them is written down with chat's."""

    def __init__(self, chat: Chat) -> None:
        self._chat = chat

    async def WatchWorlds(self, request: state_pb2.WatchWorldsRequest, context: Any) -> AsyncIterator[Any]:
        try:
            count = int(request.tenant.split(":")[1])
            for number in range(count):
                self._chat.sent = number + 1
                yield state_pb2.WatchWorldsResponse(revision=number)
            if request.tenant.startswith("fail"):
                raise BadInput("after some", reason="HALFWAY")
            if request.tenant.startswith("hang"):
                self._chat.entered.set()
                await asyncio.sleep(60)
        except (asyncio.CancelledError, GeneratorExit):
            self._chat.cancelled.set()
            raise

    async def Ingest(self, request_iterator: Any, context: Any) -> AsyncIterator[state_pb2.IngestResponse]:
        async for request in request_iterator:
            yield state_pb2.IngestResponse(
                results=[state_pb2.SnapshotResult(id=item.id, revision=item.seq) for item in request.items]
            )


@cache
def _certificates() -> Path:
    """One certificate for both sides: a caller of every room, and the name that the channel asks for."""
    directory = Path(tempfile.mkdtemp(prefix="earshot-certs-"))
    atexit.register(shutil.rmtree, directory, ignore_errors=True)
    (folder,) = issue(directory, [("edge",)], datetime.datetime.now(datetime.UTC), days=1)
    return folder


@asynccontextmanager
async def served(mode: str) -> AsyncIterator[tuple[Any, Any, Chat, Callable[[], Any]]]:
    chat = Chat()  # type: ignore[abstract]  # a fake of part of the service
    interceptor = RoomInterceptor(Metrics())
    interceptors: list[Any] = [interceptor]
    certificates = tls.load(str(_certificates())) if mode == "tls" else None
    if certificates is not None:
        interceptors.append(tls.CallerInterceptor(("chat", "state"), "chat=edge.earshot"))
    server: Any = InProcessServer(interceptors) if mode == "inprocess" else grpc.aio.server(interceptors=interceptors)
    chat_pb2_grpc.add_ChatServiceServicer_to_server(chat, server)
    state_pb2_grpc.add_StateServiceServicer_to_server(State(chat), server)  # type: ignore[abstract]  # likewise
    if mode == "inprocess":
        channel = server.channel()
    else:
        port = (
            server.add_insecure_port("127.0.0.1:0")
            if certificates is None
            else server.add_secure_port("127.0.0.1:0", certificates.server())
        )
        await server.start()
        channel = remote("edge", f"127.0.0.1:{port}", certificates)
    try:
        yield (
            chat_pb2_grpc.ChatServiceStub(channel),
            state_pb2_grpc.StateServiceStub(channel),
            chat,
            lambda: _stop(server, interceptor),
        )
    finally:
        await channel.close()
        await server.stop(None)


async def _stop(server: Any, interceptor: RoomInterceptor) -> None:
    interceptor.end_streams()
    await server.stop(None)


@pytest.mark.parametrize("mode", MODES)
async def test_unary_metadata_and_deadline(mode: str) -> None:
    async with served(mode) as (stub, _, _, _):
        call = stub.Say(chat_pb2.SayRequest(text="metadata"), timeout=5, metadata=(("question", "why"),))
        assert (await call).reason == "why"
        assert dict(await call.trailing_metadata())["answer"] == "42"
        assert await call.code() is grpc.StatusCode.OK
        remaining = (await stub.Say(chat_pb2.SayRequest(text="remaining"), timeout=5)).log_seq
        # Real gRPC rounds the deadline up by some milliseconds.
        assert 4000 < remaining <= 5100


@pytest.mark.parametrize("mode", MODES)
async def test_a_read_that_was_told_when_to_come_back_is_not_repeated(mode: str) -> None:
    async with served(mode) as (stub, _, chat, _):
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await stub.ListEvents(chat_pb2.ListEventsRequest(page_size=1), timeout=5)
        assert (from_rpc(caught.value).reason, chat.asked) == ("REVISION_UNKNOWN", 1)


async def test_a_read_of_a_room_that_starts_is_repeated() -> None:
    async with served("grpc") as (stub, _, chat, _):
        assert (await stub.ListEvents(chat_pb2.ListEventsRequest(), timeout=5)).next_cursor == chat.asked == 2


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize(
    ("text", "kind", "reason", "retryable"),
    [
        ("stale", Conflict, "STALE_EPOCH", False),
        ("busy", Overloaded, "OVERLOADED", True),
        ("owner", NotOwner, "NOT_OWNER", True),
        ("defect", Internal, "INTERNAL", False),
    ],
)
async def test_errors_keep_their_reason(
    mode: str, text: str, kind: type[EarshotError], reason: str, retryable: bool
) -> None:
    async with served(mode) as (stub, _, _, _):
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await stub.Say(chat_pb2.SayRequest(text=text), timeout=5)
        error = from_rpc(caught.value)
        assert type(error) is kind
        assert (error.reason, error.retryable) == (reason, retryable)
        assert "secret detail" not in str(caught.value.details())
        if text == "busy":
            assert error.retry_after_ms == 1500
        if isinstance(error, NotOwner):
            assert error.owner == "10.0.0.7:50054"
        # The next request is served.
        assert (await stub.Say(chat_pb2.SayRequest(text="ok"), timeout=5)).reason == "done"


@pytest.mark.parametrize("mode", MODES)
async def test_abort_carries_trailing_metadata(mode: str) -> None:
    async with served(mode) as (stub, _, _, _):
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await stub.Say(chat_pb2.SayRequest(text="abort"), timeout=5)
        assert caught.value.code() is grpc.StatusCode.PERMISSION_DENIED
        assert caught.value.details() == "no"
        assert dict(caught.value.trailing_metadata())["why"] == "because"


@pytest.mark.parametrize("mode", MODES)
async def test_deadline_cancels_the_handler(mode: str) -> None:
    async with served(mode) as (stub, _, chat, _):
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await stub.Say(chat_pb2.SayRequest(text="hang"), timeout=0.2)
        assert caught.value.code() is grpc.StatusCode.DEADLINE_EXCEEDED
        assert isinstance(from_rpc(caught.value), DeadlineExceeded)
        await asyncio.wait_for(chat.cancelled.wait(), 5)


@pytest.mark.parametrize("mode", MODES)
async def test_a_call_without_deadline_is_refused(mode: str) -> None:
    async with served(mode) as (stub, _, _, _):
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await stub.Say(chat_pb2.SayRequest(text="ok"))
        assert from_rpc(caught.value).reason == "DEADLINE_REQUIRED"


@pytest.mark.parametrize("mode", MODES)
async def test_cancelling_the_waiter_cancels_the_handler(mode: str) -> None:
    async with served(mode) as (stub, _, chat, _):

        async def wait() -> None:
            await stub.Say(chat_pb2.SayRequest(text="hang"), timeout=30)

        waiter = asyncio.create_task(wait())
        await asyncio.wait_for(chat.entered.wait(), 5)
        waiter.cancel()
        with pytest.raises(asyncio.CancelledError):
            await waiter
        await asyncio.wait_for(chat.cancelled.wait(), 5)


@pytest.mark.parametrize("mode", MODES)
async def test_call_cancel(mode: str) -> None:
    async with served(mode) as (stub, _, chat, _):
        call = stub.Say(chat_pb2.SayRequest(text="hang"), timeout=30)
        await asyncio.wait_for(chat.entered.wait(), 5)
        assert call.cancel()
        with pytest.raises(asyncio.CancelledError):
            await call
        assert call.cancelled()
        assert await call.code() is grpc.StatusCode.CANCELLED
        await asyncio.wait_for(chat.cancelled.wait(), 5)
        assert not call.cancel()


@pytest.mark.parametrize("mode", MODES)
async def test_unimplemented(mode: str) -> None:
    async with served(mode) as (stub, _, _, _):
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await stub.Decide(chat_pb2.DecideRequest(), timeout=5)
        assert caught.value.code() in (grpc.StatusCode.UNIMPLEMENTED, grpc.StatusCode.INTERNAL)


@pytest.mark.parametrize("mode", MODES)
async def test_server_stream_in_order_then_error(mode: str) -> None:
    async with served(mode) as (_, state, _, _):
        call = state.WatchWorlds(state_pb2.WatchWorldsRequest(tenant="ok:200"))
        assert [message.revision async for message in call] == list(range(200))
        seen = []
        with pytest.raises(grpc.aio.AioRpcError) as caught:  # noqa: PT012 - the messages before the error matter too
            async for message in state.WatchWorlds(state_pb2.WatchWorldsRequest(tenant="fail:3")):
                seen.append(message.revision)
        assert seen == [0, 1, 2]
        assert from_rpc(caught.value).reason == "HALFWAY"


@pytest.mark.parametrize("mode", MODES)
async def test_server_stream_cancel(mode: str) -> None:
    async with served(mode) as (_, state, chat, _):
        call = state.WatchWorlds(state_pb2.WatchWorldsRequest(tenant="hang:1"))
        assert (await call.read()).revision == 0
        await asyncio.wait_for(chat.entered.wait(), 5)
        call.cancel()
        await asyncio.wait_for(chat.cancelled.wait(), 5)
        with pytest.raises(asyncio.CancelledError):
            await call.read()


async def test_a_slow_reader_holds_up_the_writer() -> None:
    async with served("inprocess") as (_, state, chat, _):
        call = state.WatchWorlds(state_pb2.WatchWorldsRequest(tenant=f"ok:{STREAM_WINDOW * 3}"))
        await call.read()
        for _ in range(STREAM_WINDOW * 4):
            await asyncio.sleep(0)
        assert chat.sent <= STREAM_WINDOW + 2
        call.cancel()


@pytest.mark.parametrize("mode", MODES)
async def test_bidi_by_iterator_and_by_writes(mode: str) -> None:
    async with served(mode) as (_, stub, _, _):

        async def requests() -> AsyncIterator[state_pb2.IngestRequest]:
            for number in range(5):
                yield state_pb2.IngestRequest(items=[state_pb2.SnapshotItem(id=number, seq=number * 10)])

        answers = [result.revision async for answer in stub.Ingest(requests()) for result in answer.results]
        assert answers == [0, 10, 20, 30, 40]

        call = stub.Ingest()
        await call.write(state_pb2.IngestRequest(items=[state_pb2.SnapshotItem(id=7, seq=7)]))
        assert (await call.read()).results[0].revision == 7
        await call.done_writing()
        assert await call.read() is grpc.aio.EOF
        assert await call.code() is grpc.StatusCode.OK


@pytest.mark.parametrize("mode", MODES)
async def test_stopping_the_server_ends_calls(mode: str) -> None:
    async with served(mode) as (stub, _, chat, stop):

        async def wait() -> None:
            await stub.Say(chat_pb2.SayRequest(text="hang"), timeout=30)

        waiter = asyncio.create_task(wait())
        await asyncio.wait_for(chat.entered.wait(), 5)
        await stop()
        with pytest.raises((grpc.aio.AioRpcError, asyncio.CancelledError)):
            await waiter


@pytest.mark.parametrize("mode", MODES)
async def test_a_stopping_room_ends_its_watches_with_a_reason(mode: str) -> None:
    async with served(mode) as (_, state, chat, stop):
        call = state.WatchWorlds(state_pb2.WatchWorldsRequest(tenant="hang:1"))
        assert (await call.read()).revision == 0
        await asyncio.wait_for(chat.entered.wait(), 5)
        stopping = asyncio.create_task(stop())
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await call.read()
        assert caught.value.code() is grpc.StatusCode.UNAVAILABLE
        await stopping
        await asyncio.wait_for(chat.cancelled.wait(), 5)
