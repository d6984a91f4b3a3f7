"""The process's event loop: asyncio's order, with looks at the sockets between slices of work."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Callable, Coroutine, Iterator
from contextlib import contextmanager
from contextvars import Context, copy_context
from typing import Any

import pytest

from services.common.loop import HURRIED_S, PROMPT, SLICE_S, PromptLoop


class Paced(PromptLoop):
    """Every look at the clock finds it a millisecond further on."""

    now = 100.0

    def time(self) -> float:
        self.now += 0.001
        return self.now


def run(main: Coroutine[Any, Any, None], loop: Callable[[], asyncio.AbstractEventLoop] = Paced) -> None:
    with asyncio.Runner(loop_factory=loop) as runner:
        runner.run(main)


async def behind() -> None:
    """Wait behind all that is scheduled now."""
    await asyncio.sleep(0)


@contextmanager
def readable() -> Iterator[socket.socket]:
    """A socket with a byte to be read."""
    ours, theirs = socket.socketpair()
    try:
        ours.setblocking(False)
        theirs.send(b"x")
        yield ours
    finally:
        ours.close()
        theirs.close()


def prompt_context() -> Context:
    context = copy_context()
    context.run(PROMPT.set, True)
    return context


def test_what_is_ready_runs_in_the_order_of_its_calls() -> None:
    async def main() -> None:
        loop, seen = asyncio.get_running_loop(), []

        def note(number: int) -> None:
            seen.append(number)
            if number < 50:
                loop.call_soon(note, number + 100)

        for number in range(100):
            loop.call_soon(note, number)
        await behind()
        await behind()
        assert seen == list(range(150))

    run(main())


@pytest.mark.parametrize(("loop", "before"), [(Paced, round(SLICE_S * 1000)), (asyncio.SelectorEventLoop, 200)])
def test_a_socket_is_looked_at_between_slices_of_work(
    loop: Callable[[], asyncio.AbstractEventLoop], before: int
) -> None:
    async def main() -> None:
        running, seen = asyncio.get_running_loop(), []
        with readable() as ours:
            done = asyncio.Event()

            def read() -> None:
                ours.recv(1)
                running.remove_reader(ours)
                seen.append("read")

            await asyncio.sleep(0)
            for _ in range(200):
                running.call_soon(seen.append, "work")
            running.call_soon(done.set)
            running.add_reader(ours, read)
            await done.wait()
        assert seen.count("work") == 200
        assert seen.index("read") <= before, "work done before the socket was looked at"

    run(main(), loop)


@pytest.mark.parametrize(("took_s", "slice_s"), [(0.0, SLICE_S), (0.01, 0.01), (0.04, 0.04)])
def test_a_look_that_takes_long_leaves_as_long_to_the_work(took_s: float, slice_s: float) -> None:
    async def main() -> None:
        loop = asyncio.get_running_loop()
        seen: list[str] = []
        assert isinstance(loop, Paced)

        def look() -> None:
            # A timer is due with every look.
            loop.now += took_s
            loop.call_later(0, look)
            seen.append("look")

        look()
        await behind()
        for _ in range(100):
            loop.call_soon(seen.append, "work")
        await behind()
        slices = [part.count("w") for part in "".join(one[0] for one in seen).split("l")]
        assert sum(slices) == 100
        assert max(slices) == pytest.approx(slice_s * 1000, abs=3)

    run(main())


def test_steps_of_a_prompt_context_come_before_what_waits() -> None:
    async def main() -> None:
        loop = asyncio.get_running_loop()
        seen: list[int | str] = []
        for number in range(20):
            loop.call_soon(seen.append, number)
        loop.call_soon(seen.append, "prompt", context=prompt_context())
        prompt_context().run(loop.call_soon, seen.append, "prompt")
        loop.call_soon(seen.append, "last", context=Context())
        await behind()
        assert [at for at, one in enumerate(seen) if one == "prompt"][-1] < 15
        assert [one for one in seen if one != "prompt"] == [*range(20), "last"]

    run(main())


def test_steps_that_follow_each_other_wait_for_short_slices() -> None:
    async def main() -> None:
        loop = asyncio.get_running_loop()
        seen: list[str] = []

        def step(left: int) -> None:
            seen.append("step")
            if left:
                loop.call_soon(step, left - 1)

        await behind()
        for _ in range(100):
            loop.call_soon(seen.append, "work")
        prompt_context().run(loop.call_soon, step, 5)
        await behind()
        slices = [part.count("w") for part in "".join(one[0] for one in seen).split("s")]
        assert sum(slices) == 100
        assert max(slices[1:-1]) <= HURRIED_S * 1000 + 2, "between two steps"

    run(main())


def test_what_fails_or_was_cancelled_takes_nothing_else_with_it() -> None:
    async def main() -> None:
        loop = asyncio.get_running_loop()
        seen: list[int] = []
        failed: list[type[BaseException]] = []
        loop.set_exception_handler(lambda _, about: failed.append(type(about["exception"])))

        def fail() -> None:
            raise ValueError("no")

        loop.call_soon(seen.append, 1)
        loop.call_soon(fail)
        loop.call_soon(seen.append, 2).cancel()
        loop.call_soon(seen.append, 3)
        await behind()
        assert (seen, failed) == ([1, 3], [ValueError])

    run(main())


def test_a_signal_that_ends_the_process_in_a_callback_leaves_the_rest_for_the_clean_up() -> None:
    seen: list[int] = []

    def leave() -> None:
        raise SystemExit(130)

    loop = PromptLoop()
    loop.call_soon(leave)
    loop.call_soon(seen.append, 1)
    with pytest.raises(SystemExit):
        loop.run_forever()

    async def clean() -> None:
        await asyncio.to_thread(seen.append, 2)

    loop.run_until_complete(clean())
    loop.close()
    assert seen == [1, 2]
    with pytest.raises(RuntimeError):
        loop.call_soon(seen.append, 3)
