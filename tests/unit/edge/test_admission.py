"""What may enter: work in flight, rates of sessions, tenants and addresses, and whose address counts."""

from __future__ import annotations

import asyncio
import contextlib
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.common import errors
from services.common.telemetry import Metrics
from services.edge.admission import STRANGER_BURST, TRACKED, Admission, Bucket, Buckets
from services.edge.limit import LEAST, NEWEST, Limit
from services.edge.routes import Route
from tests.unit.edge.fakes import DEFAULTS, World, keys, world

ROUTE = Route("GET", "/x", None)


async def test_work_in_flight_is_bounded_and_probes_pass() -> None:
    async with world() as edge:
        edge.edge.admission.enter(edge.app.settings.in_flight_max)
        answer = await edge.client.get("/v1/worlds")
        assert (answer.status_code, answer.json()["error"]["reason"]) == (429, "OVERLOADED")
        assert answer.headers["retry-after"] == "1"
        assert (await edge.client.get("/healthz")).status_code == 200
        edge.edge.admission.enter(-edge.app.settings.in_flight_max)
        assert (await edge.client.get("/v1/worlds")).status_code == 200


async def test_a_loop_that_stays_behind_lets_fewer_in_and_recovers() -> None:
    slip, time = [0.2], [0.0]

    def clock() -> float:
        # Each look at the clock finds it further on than the loop's own time.
        time[0] += slip[0]
        return asyncio.get_running_loop().time() + time[0]

    def fits(many: int) -> bool:
        admission.enter(many)
        try:
            admission.admitted(ROUTE)
        except errors.Overloaded:
            return False
        finally:
            admission.enter(-many)
        return True

    admission = Admission(DEFAULTS, Metrics(), clock)
    watch = asyncio.create_task(admission.watch_lag())
    assert fits(100)
    await asyncio.sleep(1)
    assert [fits(LEAST - 1), fits(LEAST), fits(100)] == [True, False, False]
    admission.enter(100)
    admission.admitted(Route("GET", "/x", None, open=True))
    admission.enter(-100)
    slip[0] = 0.0
    await asyncio.sleep(10)
    assert fits(100)
    watch.cancel()
    await asyncio.gather(watch, return_exceptions=True)


async def test_what_arrives_in_one_turn_of_the_loop_counts_before_it_begins() -> None:
    admission = Admission(DEFAULTS, Metrics(), lambda: 0.0)
    room = DEFAULTS.in_flight_max
    assert [admission.arrives() for _ in range(room + 1)] == [True] * room + [False]
    with contextlib.ExitStack() as began:
        for _ in range(3):
            began.enter_context(admission.admitted(ROUTE))
        await asyncio.sleep(0)
        assert [admission.arrives() for _ in range(room - 2)] == [True] * (room - 3) + [False]


async def test_those_whose_tasks_come_later_count_while_the_first_begins() -> None:
    """What is ready need not all run before the next request arrives (services/common/loop.py)."""
    admission = Admission(DEFAULTS, Metrics(), lambda: 0.0)
    seen: list[bool] = []
    assert admission.arrives()
    for _ in range(2):
        asyncio.get_running_loop().call_soon(lambda: seen.append(admission.arrives()))
    for _ in range(DEFAULTS.in_flight_max - 1):
        assert admission.arrives()
    await asyncio.sleep(0)
    assert seen == [True, False], "the first has begun and ended, the others not"


@given(st.lists(st.tuples(st.floats(0, 1), st.integers(0, 1000)), max_size=50))
def test_a_limit_stays_within_its_bounds(looks: list[tuple[float, int]]) -> None:
    limit = Limit(512, 0.04)
    for delay_s, used in looks:
        before = limit.value
        limit.look(delay_s, used)
        assert LEAST <= limit.value <= 512
        if delay_s > 0.04 / NEWEST:
            assert limit.value <= max(before, LEAST)


def test_a_limit_finds_what_fits_and_one_pause_changes_nothing() -> None:
    limit = Limit(512, 0.04)
    limit.look(0.1, 3)
    assert limit.value == 512
    # A server that takes half a millisecond of the loop for each request in flight, and has more to do than it can.
    for _ in range(400):
        limit.look(0.0005 * limit.value, limit.value)
    assert 50 <= limit.value <= 110
    for _ in range(100):
        limit.look(0.001, 2)
    assert limit.value == 512


def test_a_bucket_refills_at_its_rate() -> None:
    bucket = Bucket(rate=2.0, burst=3.0)
    assert [bucket.take(10.0) for _ in range(3)] == [0, 0, 0]
    assert bucket.take(10.0) == 0.5
    assert bucket.take(10.4) == pytest.approx(0.1)
    assert bucket.take(10.5) == 0
    assert [bucket.take(1000.0) for _ in range(4)] == [0, 0, 0, 0.5]


def test_what_is_tracked_is_bounded() -> None:
    buckets = Buckets(rate=1.0, burst=1.0)
    assert [buckets.take("first", 0.0), buckets.take("first", 0.0)] == [0, 1]
    for number in range(TRACKED):
        buckets.take(str(number), 0.0)
    assert len(buckets._buckets) == TRACKED
    assert buckets.take("first", 0.0) == 0


def refusals(edge: World, gate: str) -> float:
    return edge.app.metrics.registry.get_sample_value("earshot_admission_refused_total", {"gate": gate}) or 0.0


async def test_a_tenant_has_a_rate_that_others_do_not_share(tmp_path: Path) -> None:
    first, second, other = keys(tmp_path, "red", "red", "blue")
    async with world(data=str(tmp_path), tenant_requests_per_s=2.0, tenant_burst=3.0) as edge:

        async def ask(key: str) -> Any:
            return await edge.client.get("/v1/worlds", headers={"authorization": f"Bearer {key}"})

        assert [(await ask(key)).status_code for key in (first, second, first)] == [200, 200, 200]
        refused = await ask(second)
        assert (refused.status_code, refused.json()["error"]["reason"]) == (429, "RATE_LIMITED")
        assert refused.headers["retry-after"] == "1"
        assert (await ask(other)).status_code == 200
        assert refusals(edge, "tenant") == 1
        await asyncio.sleep(0.6)
        assert (await ask(second)).status_code == 200


async def test_a_session_has_a_rate_within_its_tenant_s(tmp_path: Path) -> None:
    (key,) = keys(tmp_path, "red")
    async with world(data=str(tmp_path), session_requests_per_minute=60.0, session_burst=2.0) as edge:
        opening = {"authorization": f"Bearer {key}"}
        tokens = [
            (await edge.client.post("/v1/sessions", json={"job": job}, headers=opening)).json() for job in ("a", "b")
        ]
        assert tokens[0]["limits"]["requests_per_minute"] == 60

        async def ask(session: Any) -> int:
            headers = {"authorization": f"Bearer {session['token']}"}
            return (await edge.client.get("/v1/npcs", headers=headers)).status_code

        assert [await ask(tokens[0]) for _ in range(3)] == [200, 200, 429]
        assert await ask(tokens[1]) == 200
        assert refusals(edge, "session") == 1


async def test_wrong_keys_are_counted_by_address_and_never_lock_a_good_key_out(tmp_path: Path) -> None:
    (key,) = keys(tmp_path, "red")
    async with world(data=str(tmp_path), trusted_proxies="127.0.0.1") as edge:

        async def ask(secret: str, address: str = "192.0.2.1") -> int:
            headers = {"authorization": f"Bearer {secret}", "x-forwarded-for": address}
            return (await edge.client.get("/v1/worlds", headers=headers)).status_code

        assert [await ask("wrong") for _ in range(int(STRANGER_BURST) + 1)] == [401] * int(STRANGER_BURST) + [429]
        assert await ask("wrong", "192.0.2.2") == 401
        # What stands left of the address that the proxy saw is the client's own invention.
        assert await ask("wrong", "192.0.2.9, 192.0.2.1") == 429
        assert await ask(key) == 200
        assert refusals(edge, "address") == 2


async def test_x_forwarded_for_of_who_is_not_trusted_says_nothing(tmp_path: Path) -> None:
    keys(tmp_path, "red")
    async with world(data=str(tmp_path), trusted_proxies="10.0.0.0/8") as edge:
        statuses = [
            (await edge.client.get("/v1/worlds", headers={"x-forwarded-for": f"192.0.2.{number}"})).status_code
            for number in range(int(STRANGER_BURST) + 1)
        ]
        assert statuses[-2:] == [401, 429]


@pytest.mark.parametrize(
    ("forwarded", "status"), [("192.0.2.1", 403), ("127.0.0.1, 192.0.2.1", 403), ("nonsense", 403), ("127.0.0.1", 200)]
)
async def test_without_keys_a_proxy_on_this_machine_opens_nothing(forwarded: str, status: int) -> None:
    async with world() as edge:
        answer = await edge.client.get("/v1/worlds", headers={"x-forwarded-for": forwarded})
        assert answer.status_code == status
        if status == 403:
            assert answer.json()["error"]["reason"] == "KEYS_NEEDED"


async def test_trusted_proxies_that_are_none_are_a_clear_failure_at_start() -> None:
    with pytest.raises(errors.BadInput, match="trusted_proxies: not an address or network: nginx"):
        async with world(trusted_proxies="127.0.0.1, nginx"):
            pass
