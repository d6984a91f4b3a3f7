"""Where a room's replicas are: what is known, for how long it is believed, and who is told when it changes."""

from __future__ import annotations

import asyncio
from contextlib import suppress

import pytest

from services.common.directory import EVERY_S, KNOWN_S, QUIET, TAKEN_MS, Directory
from services.common.errors import Unavailable
from services.common.ownership import PARTITIONS
from tests.fakes.registry import FakeRegistry

LEASE_MS = 5000


def now() -> float:
    return asyncio.get_running_loop().time()


def shared(*addresses: str) -> FakeRegistry:
    """Partitions dealt out in turn."""
    served = {partition: addresses[partition % len(addresses)] for partition in range(PARTITIONS)}
    return FakeRegistry(served, dict.fromkeys(addresses, LEASE_MS))


async def known(registry: FakeRegistry, here: str = "") -> Directory:
    directory = Directory(registry, here, LEASE_MS)
    await directory.refresh()
    return directory


async def test_it_knows_nobody_before_it_has_asked() -> None:
    directory = Directory(shared("a"), "", LEASE_MS)
    assert (directory.owner(0), directory.everybody(), directory.complete) == ("", [], False)
    await directory.refresh()
    assert (directory.owner(0), directory.everybody(), directory.complete) == ("a", ["a"], True)


async def test_owners_of_some_partitions_are_those_alone() -> None:
    directory = await known(shared("a", "b", "c"))
    assert directory.everybody() == ["a", "b", "c"]
    assert directory.everybody((0, 3, 6)) == ["a"]
    assert directory.everybody((0, 2)) == ["a", "c"]
    assert directory.everybody((PARTITIONS,)) == []


@pytest.mark.parametrize("missing", ["a partition", "an owner's lease"])
async def test_it_is_complete_only_when_every_partition_is_served_by_somebody_alive(missing: str) -> None:
    registry = shared("a", "b")
    if missing == "a partition":
        del registry.served[17]
    else:
        del registry.leases["b"]
    assert not (await known(registry)).complete


async def test_this_process_is_the_nearest_and_the_others_come_in_an_order_of_its_own() -> None:
    registry = shared("a", "b", "c", "d")
    orders = {here: list((await known(registry, here)).nearest()) for here in "abcd"}
    assert all(order[0] == here and sorted(order) == list("abcd") for here, order in orders.items())
    assert len({tuple(order[1:]) for order in orders.values()}) > 1


async def test_a_replica_is_quiet_when_little_of_its_lease_is_left_and_that_is_fresh_news() -> None:
    registry = shared("a", "b")
    registry.leases["b"] = round(LEASE_MS * QUIET) - 1
    directory = await known(registry)
    assert (directory.quiet("a"), directory.quiet("b"), directory.quiet("nobody")) == (False, True, True)
    # The registry cannot be asked: nobody's beats are heard, so that silence says nothing.
    registry.failure = Unavailable("away", reason="STORE_UNAVAILABLE")
    await asyncio.sleep(KNOWN_S + 0.1)
    assert not directory.quiet("b")


async def test_who_is_told_of_moving_worlds_may_come_back_when_the_lease_has_run_out() -> None:
    directory = await known(shared("a"))
    await asyncio.sleep(2)
    assert directory.left_ms("a") == LEASE_MS - 2000
    moving = directory.moving("a")
    assert (moving.reason, moving.retry_after_ms, moving.retryable) == ("MOVING", LEASE_MS - 2000 + TAKEN_MS, True)
    assert directory.moving().retry_after_ms == TAKEN_MS


async def test_a_partition_that_changes_hands_is_waited_for() -> None:
    registry = shared("a")
    del registry.served[7]
    directory = await known(registry)
    waiting = asyncio.create_task(directory.served(7, now() + 2))
    await asyncio.sleep(1)
    registry.served[7] = "b"
    registry.leases["b"] = LEASE_MS
    assert await waiting == "b"


async def test_it_is_not_waited_for_longer_than_the_caller_has() -> None:
    registry = shared("a")
    del registry.served[7]
    directory, began = await known(registry), now()
    with pytest.raises(Unavailable) as caught:
        await directory.served(7, now() + 2)
    assert caught.value.reason == "MOVING"
    assert now() - began == pytest.approx(2, abs=0.1)


async def test_who_says_that_it_is_not_the_owner_is_not_named_again() -> None:
    registry = shared("a")
    directory = await known(registry)
    waiting = asyncio.create_task(directory.served(7, now() + 2, but="a"))
    await asyncio.sleep(0.5)
    assert not waiting.done()
    registry.served[7] = "b"
    registry.leases["b"] = LEASE_MS
    assert await waiting == "b"


async def test_an_owner_that_hangs_is_looked_up_once_more_and_then_not_asked() -> None:
    registry = shared("a")
    registry.leases["a"] = 100
    directory = await known(registry)
    with pytest.raises(Unavailable) as caught:
        await directory.served(7, now() + 2)
    assert (caught.value.reason, registry.looks) == ("MOVING", 2)
    # It beat meanwhile.
    registry.leases["a"] = LEASE_MS
    assert await directory.served(7, now() + 2) == "a"


async def test_callers_at_the_same_time_share_one_question() -> None:
    registry = shared("a")
    directory = Directory(registry, "", LEASE_MS)
    await asyncio.gather(*(directory.refresh() for _ in range(20)))
    assert registry.looks == 1


async def test_watchers_are_told_of_every_change_also_of_one_between_two_watches() -> None:
    registry = shared("a")
    directory = await known(registry)
    first, version = directory.watch(), directory.version
    await directory.refresh()
    assert not first.is_set()  # the same as before is no change
    registry.served[1] = "b"
    await directory.refresh()
    assert first.is_set()
    second = directory.watch()
    registry.served[2] = "b"
    await directory.refresh()
    # Whoever took it before looking learns of what came after the look.
    assert second.is_set()
    assert not directory.watch().is_set()
    assert directory.version == version + 2


async def test_it_goes_on_asking_and_sooner_when_somebody_doubts() -> None:
    registry = shared("a")
    directory = Directory(registry, "", LEASE_MS)
    running = asyncio.create_task(directory.run())
    await asyncio.sleep(10 * EVERY_S + 0.01)
    assert registry.looks == 11
    registry.failure = Unavailable("away", reason="STORE_UNAVAILABLE")
    await asyncio.sleep(10 * EVERY_S)
    registry.failure, before = None, registry.looks
    directory.doubt()
    await asyncio.sleep(EVERY_S / 4)
    assert registry.looks == before + 1
    assert directory.owner(0) == "a"
    running.cancel()
    with suppress(asyncio.CancelledError):
        await running
