"""Driving the tavern against a small Earshot: what goes out, what is told, and what happens when things go wrong."""

from __future__ import annotations

import asyncio
import io
from itertools import islice

import httpx
import pytest
from starlette.responses import JSONResponse

from services.demo import performance
from services.demo.driver import DemoError, Summary, drive, main
from services.demo.repertoire import play
from services.demo.tavern import load_roster
from tests.unit.demo.fake_earshot import FakeEarshot, error

URL = "http://earshot.test"


async def told(earshot: FakeEarshot, **how: object) -> tuple[Summary, str]:
    out = io.StringIO()
    how = {"duration": 45.0, "now": lambda: 1000.0, "boot": "boot", **how}
    return await drive(URL, transport=earshot, out=out, **how), out.getvalue()  # type: ignore[arg-type] # options by name


async def test_the_first_45_seconds_show_everything_that_matters() -> None:
    earshot = FakeEarshot()
    summary, text = await told(earshot)
    lines = text.splitlines()
    said = [u for step in islice(play("tavern", 7), 46) for u in step.utterances]
    names = {npc["id"]: npc["display_name"] for npc in load_roster()["npcs"]}
    assert summary.messages == len(said) == len(earshot.messages)
    assert summary.snapshots == len(earshot.snapshots) >= 45
    for utterance in said:
        told_at = next(i for i, line in enumerate(lines) if utterance.text[:30] in line)
        after = " ".join(lines[told_at : told_at + 3])
        if utterance.answers == ():
            assert ". silence" in after, "players talk among themselves"
            assert "said to another player" in after
        elif utterance.answers:
            assert names[utterance.answers[0]] in after, "the NPC that was named speaks"
    assert any("+ Juno joins" in line for line in lines)
    assert any("- Juno leaves" in line for line in lines)
    assert any("called by name" in line and "revision" in line for line in lines)
    assert summary.tally.turns == sum(u.answers != () for u in said)
    assert summary.tally.silences == sum(u.answers == () for u in said)
    assert summary.tally.runtime_calls == summary.tally.turns
    assert summary.first_sentence_ms == pytest.approx(50)


async def test_the_game_sends_what_the_contract_says() -> None:
    earshot = FakeEarshot()
    await told(earshot)
    (roster,) = earshot.rosters
    assert len(roster["npcs"]) == 8
    _, first = earshot.snapshots[0]
    assert first["world"] == "tavern"
    assert "seq" not in first, "without a session a snapshot is full and unsequenced"
    assert first["timestamp"] == 1000.0
    gaps = [later - earlier for (earlier, _), (later, _) in zip(earshot.snapshots, earshot.snapshots[1:], strict=False)]
    assert gaps == pytest.approx([1.0] * len(gaps))
    ids = [message["message_id"] for message in earshot.messages]
    assert len(set(ids)) == len(ids)
    assert all(id.startswith("boot-") for id in ids), "two runs never share message ids"
    assert earshot.most["/v1/events"] == 1, "one long poll"


async def test_the_same_seed_tells_the_same_evening_and_another_seed_another() -> None:
    one, two, other = [(await told(FakeEarshot(), seed=seed))[1] for seed in (7, 7, 3)]
    assert one == two
    assert one != other


async def test_two_demos_live_in_two_worlds() -> None:
    earshot = FakeEarshot()
    await told(earshot, world="tavern-2")
    sent = [body for _, body in earshot.snapshots] + earshot.messages
    assert {body["world"] for body in sent} == {"tavern-2"}
    assert earshot.worlds_asked == {"tavern-2"}


async def test_speed_shortens_the_evening() -> None:
    earshot = FakeEarshot(think_s=0.01)
    summary, _ = await told(earshot, speed=10.0, duration=4.5)
    assert summary.snapshots >= 45
    assert summary.seconds == pytest.approx(4.5, abs=0.5)


async def test_slow_answers_do_not_hold_up_the_world() -> None:
    earshot = FakeEarshot(think_s=30)
    await told(earshot)
    gaps = [b - a for (a, _), (b, _) in zip(earshot.snapshots, earshot.snapshots[1:], strict=False)]
    assert max(gaps) == pytest.approx(1.0)
    assert len(earshot.messages) > 5


async def test_messages_on_their_way_are_bounded() -> None:
    earshot = FakeEarshot(think_s=30)
    summary, text = await told(earshot, speed=10.0, duration=20.0)
    assert earshot.most["/v1/messages"] == performance.MESSAGES_MOST
    assert summary.undelivered > 0
    assert text.count("do not keep up") == 1


async def test_it_stops_at_the_first_reply() -> None:
    earshot = FakeEarshot()
    summary, text = await told(earshot, until_first_reply=True, duration=None)
    assert summary.first_reply_s == pytest.approx(5.05, abs=0.2)
    assert summary.seconds < 6
    assert "Here I am." in text


async def test_cancelling_leaves_the_summary_and_no_task() -> None:
    out, earshot = io.StringIO(), FakeEarshot(think_s=30)
    driving = asyncio.create_task(drive(URL, transport=earshot, out=out))
    await asyncio.sleep(30)
    driving.cancel()
    with pytest.raises(asyncio.CancelledError):
        await driving
    assert asyncio.all_tasks() == {asyncio.current_task()}
    assert "runtime calls" in out.getvalue()
    assert earshot.in_flight == dict.fromkeys(earshot.in_flight, 0)


async def test_a_server_that_starts_late_is_waited_for() -> None:
    earshot = FakeEarshot()
    earshot.down = True

    async def start() -> None:
        await asyncio.sleep(20)
        earshot.down = False

    async with asyncio.TaskGroup() as group:
        group.create_task(start())
        summary, text = await told(earshot, duration=40.0)
    assert text.count("trying again") == 1
    assert "connection refused" in text
    assert text.count("answers again") == 1
    assert 10 < summary.snapshots < 22
    assert earshot.snapshots[0][1]["timestamp"] == 1000.0, "the story begins when somebody listens"


async def test_the_story_waits_while_the_server_is_away_and_the_roster_is_given_again() -> None:
    earshot = FakeEarshot()

    async def outage() -> None:
        await asyncio.sleep(10.5)
        earshot.down = True
        await asyncio.sleep(15)
        earshot.down = False

    async with asyncio.TaskGroup() as group:
        group.create_task(outage())
        summary, text = await told(earshot, duration=40.0)
    times = [body["timestamp"] for _, body in earshot.snapshots]
    assert times == [1000.0 + i for i in range(len(times))], "no moment is lost, none is rushed"
    assert 20 < summary.snapshots < 30
    assert len(earshot.rosters) == 2
    assert text.count("trying again") == 1


async def test_patience_ends() -> None:
    earshot, out = FakeEarshot(), io.StringIO()
    earshot.down = True
    begun = asyncio.get_running_loop().time()
    with pytest.raises(DemoError, match="gave up after 120 s"):
        await drive(URL, transport=earshot, out=out)
    assert 110 < asyncio.get_running_loop().time() - begun < 130
    assert "0 snapshots" in out.getvalue()


async def test_a_duration_ends_the_wait_too() -> None:
    earshot = FakeEarshot()
    earshot.down = True
    summary, _ = await told(earshot, duration=5.0)
    assert summary.snapshots == 0
    assert summary.seconds < 8


@pytest.mark.parametrize("path", ["PUT /v1/npcs", "POST /v1/snapshots", "GET /v1/events"])
async def test_a_refusal_at_the_start_is_told_and_ends_it(path: str) -> None:
    earshot = FakeEarshot()
    earshot.faults[path] = [error(401, "UNAUTHENTICATED", retryable=False)]
    with pytest.raises(DemoError, match="HTTP 401, UNAUTHENTICATED, because of a test"):
        await told(earshot)


async def test_what_should_be_tried_again_is_tried_again_when_it_says() -> None:
    earshot = FakeEarshot()
    earshot.faults["PUT /v1/npcs"] = [error(429, "OVERLOADED", retryable=True, after=7)]
    begun = asyncio.get_running_loop().time()
    await told(earshot, duration=20.0)
    assert earshot.snapshots[0][0] - begun == pytest.approx(7.0, abs=0.01)


async def test_refusals_on_the_way_do_not_end_the_evening() -> None:
    earshot = FakeEarshot()

    async def trip() -> None:
        await asyncio.sleep(4.5)
        earshot.faults["POST /v1/snapshots"] = [error(400, "BAD_INPUT", retryable=False) for _ in range(3)]
        earshot.faults["POST /v1/messages"] = [error(400, "TOO_LONG", retryable=False)]
        earshot.faults["GET /v1/events"] = [error(500, "INTERNAL", retryable=False), JSONResponse(["no object"])]

    async with asyncio.TaskGroup() as group:
        group.create_task(trip())
        summary, text = await told(earshot)
    assert text.count("a snapshot was refused: HTTP 400, BAD_INPUT") == 1
    assert "was not heard: HTTP 400, TOO_LONG" in text
    assert "the events were refused: HTTP 500" in text
    assert summary.undelivered == 1
    assert summary.tally.turns > 3, "and the rest is played"


async def test_odd_events_are_survived() -> None:
    earshot = FakeEarshot()

    async def oddities() -> None:
        await asyncio.sleep(3)
        for odd in (
            {"type": "utterance"}, {"type": "turn", "phase": 7}, {"type": None}, {"type": "action", "data": [1]},
            {"type": "utterance", "speaker": "nobody", "text": 5, "turn_id": {}}, {"type": "membership", "members": 3},
            {"type": "turn", "phase": "ended", "revision_seen": "x", "age_ms": [], "turn_id": 3},
        ):  # fmt: skip
            earshot.append(**odd)
        earshot.log.append("not even an object")  # type: ignore[arg-type] # that is the point

    async with asyncio.TaskGroup() as group:
        group.create_task(oddities())
        summary, _ = await told(earshot)
    assert summary.tally.turns > 3


async def test_a_resync_is_told() -> None:
    earshot = FakeEarshot()

    async def lose() -> None:
        await asyncio.sleep(2)
        earshot.faults["GET /v1/events"] = [JSONResponse({"events": [], "cursor": 0, "resync": True})]
        earshot.append(type="notice", text="anything, so that the poll returns")

    async with asyncio.TaskGroup() as group:
        group.create_task(lose())
        _, text = await told(earshot)
    assert text.count("some events are gone") == 1


async def test_a_server_that_does_not_hold_its_polls_is_not_flooded() -> None:
    earshot = FakeEarshot(hold=False)
    polls = 0
    handle = earshot.handle_async_request

    async def count(request: httpx.Request) -> httpx.Response:
        nonlocal polls
        polls += request.url.path == "/v1/events"
        return await handle(request)

    earshot.handle_async_request = count  # type: ignore[method-assign] # counts, then does the same
    await told(earshot, duration=10.0)
    assert polls <= 11 / performance.POLL_GAP_S


@pytest.mark.parametrize(
    ("more", "done"),
    [({}, True), ({"expires_at": 2000.0}, True), ({"expires_at": 999.0}, None)],
)
async def test_actions_are_executed_and_their_results_reported(more: dict[str, float], done: bool | None) -> None:
    earshot = FakeEarshot(action={"action_id": "a1", "action": "emote", "data": {"type": "wave"}, **more})
    summary, text = await told(earshot, duration=8.0)
    assert "emote (wave)" in text
    assert summary.tally.actions == 1
    events = [event for _, body in earshot.snapshots for event in body.get("events", [])]
    results = [event["data"]["success"] for event in events if event["type"] == "action_result"]
    assert results == ([] if done is None else [done])


async def test_blocks_written_at_once_are_told_and_those_of_a_turn_are_not() -> None:
    earshot = FakeEarshot()
    status = {"npc_id": "tavern-odette", "writes": 1, "turns": 0, "confirmed_revision": 4}
    earshot.sync = [status]

    async def fight() -> None:
        await asyncio.sleep(4.5)
        earshot.sync = [{**status, "writes": 2, "confirmed_revision": 31}]
        await asyncio.sleep(2)
        earshot.sync = [{**status, "writes": 3, "turns": 1, "confirmed_revision": 33}]

    async with asyncio.TaskGroup() as group:
        group.create_task(fight())
        summary, text = await told(earshot, duration=12.0)
    assert text.count("Captain Odette now holds revision 31") == 1
    assert "revision 33" not in text
    assert summary.tally.pushes == 1


class ClosedPipe(io.StringIO):
    """What stdout is once `| head` has seen enough."""

    def write(self, text: str) -> int:
        if self.tell() > 500:
            raise BrokenPipeError
        return super().write(text)


async def test_nobody_reading_is_a_way_to_stop() -> None:
    summary = await drive(URL, transport=FakeEarshot(), out=ClosedPipe())
    assert summary.snapshots < 40
    assert asyncio.all_tasks() == {asyncio.current_task()}


@pytest.mark.parametrize("url", ["nonsense", "ftp://here", "http://", "http://here:99999", "http://[x"])
async def test_a_url_that_is_none_is_said_so(url: str) -> None:
    with pytest.raises(DemoError, match="no URL"):
        await drive(url, out=io.StringIO())


async def test_a_key_that_cannot_be_sent_is_said_so_without_being_shown() -> None:
    with pytest.raises(DemoError, match="API key") as caught:
        await drive(URL, key="ek_geheim\n", out=io.StringIO())
    assert "geheim" not in str(caught.value)


async def test_the_key_goes_into_the_header() -> None:
    seen: set[str] = set()

    def answer(request: httpx.Request) -> httpx.Response:
        seen.add(request.headers["authorization"])
        return httpx.Response(403, json={"error": {"reason": "FORBIDDEN"}})

    with pytest.raises(DemoError, match="HTTP 403, FORBIDDEN"):
        await drive(URL, key="ek_x", transport=httpx.MockTransport(answer), out=io.StringIO())
    assert seen == {"Bearer ek_x"}


async def test_something_else_on_the_port_is_said_so() -> None:
    page = httpx.MockTransport(lambda _: httpx.Response(200, text="<html>"))
    with pytest.raises(DemoError, match="is this an Earshot"):
        await drive(URL, transport=page, out=io.StringIO())


@pytest.mark.parametrize(
    "arguments", [["--speed", "0"], ["--for", "-1"], ["--seed", "x"], ["--speed", "nan"], ["more"]]
)
def test_wrong_usage_is_exit_status_2(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as left:
        main(arguments)
    assert left.value.code == 2
    assert "usage: earshot demo" in capsys.readouterr().err


def test_a_failure_is_exit_status_1_and_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--url", "nonsense"]) == 1
    error = capsys.readouterr().err
    assert error.startswith("earshot demo: 'nonsense' is no URL")
    assert error.count("\n") == 1
