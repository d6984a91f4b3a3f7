"""Who should own what, which replica a call is about, and how answers of several become one."""

from __future__ import annotations

import math
from collections import Counter

from earshot.chat.v1 import chat_pb2
from earshot.state.v1 import state_pb2
from earshot.sync.v1 import sync_pb2
from earshot.type.v1 import type_pb2
from hypothesis import given
from hypothesis import strategies as st

from services.common.gather import GATHERED, Resumed
from services.common.mirror import Layout, Mirror, named
from services.common.ownership import PARTITIONS
from services.common.redis_rows import RedisRows
from services.common.replicas import FULL, plan
from services.common.routing import guarded, world_of

IDS = st.lists(st.text("abcdef0123456789", min_size=4, max_size=12), min_size=1, max_size=8, unique=True)


@given(IDS)
def test_everybody_plans_the_same_and_every_partition_has_one_owner(ids: list[str]) -> None:
    made = plan(ids)
    assert made == plan(reversed(ids))
    assert sorted(made) == list(range(PARTITIONS))
    assert set(made.values()) <= set(ids)


@given(IDS, st.data())
def test_a_replica_that_goes_moves_its_own_share_and_little_else(ids: list[str], data: st.DataObject) -> None:
    gone = data.draw(st.sampled_from(ids))
    before, after = plan(ids), plan(one for one in ids if one != gone)
    others = [one for one, owner in before.items() if owner != gone and after and after[one] != owner]
    assert len(others) <= PARTITIONS // 8


@given(IDS)
def test_nobody_has_much_more_than_an_even_share(ids: list[str]) -> None:
    counts = [list(plan(ids).values()).count(one) for one in ids]
    assert max(counts) <= math.ceil(FULL * PARTITIONS / len(ids))


def test_many_replicas_share_evenly_too() -> None:
    counts = Counter(plan(f"replica-{number}" for number in range(64)).values())
    assert max(counts.values()) == 5  # four would be even; chance alone gives ten
    assert len(counts) >= 60


def ref(world: str) -> type_pb2.WorldRef:
    return type_pb2.WorldRef(tenant="t", world=world)


def test_a_call_names_its_world_in_one_of_a_few_ways() -> None:
    key = state_pb2.NpcKey(world=ref("w"), npc_id="mara")
    assert world_of(state_pb2.GetWorldRequest(world=ref("w"))) == ("t", "w")
    assert world_of(sync_pb2.ConverseRequest(npc=key)) == ("t", "w")
    assert world_of(state_pb2.BatchGetNpcContextRequest(npcs=[key])) == ("t", "w")
    assert world_of(sync_pb2.RefreshRequest(world=ref("v"), npcs=[key])) == ("t", "v")
    assert world_of(state_pb2.ImportRosterRequest(tenant="t")) == ("t", "")
    assert world_of(state_pb2.BatchGetNpcContextRequest()) == ("", "")


def test_only_calls_about_one_world_are_refused_by_others() -> None:
    assert guarded("/earshot.state.v1.StateService/GetWorld")
    assert guarded("/earshot.sync.v1.SyncService/Converse")
    assert not guarded("/earshot.state.v1.StateService/Ingest")
    assert not guarded("/earshot.state.v1.StateService/WatchNpcs")
    assert not guarded("/earshot.sync.v1.SyncService/Embed")
    assert not guarded("/earshot.cluster.v1.ClusterService/Assign")


def listing(names: str, more: str = "") -> state_pb2.ListWorldsResponse:
    return state_pb2.ListWorldsResponse(
        worlds=[state_pb2.WorldSummary(world=ref(name)) for name in names], next_page_token=more
    )


def test_pages_of_worlds_leave_out_what_may_have_gaps() -> None:
    join = GATHERED["state/ListWorlds"].join
    whole = join(state_pb2.ListWorldsRequest(), {"a": listing("bd"), "b": listing("ace")})
    assert ["".join(one.world.world for one in whole.worlds), whole.next_page_token] == ["abcde", ""]
    # b's page ends at c and goes on: d of the other may not be the next one.
    part = join(state_pb2.ListWorldsRequest(page_size=2), {"a": listing("bd"), "b": listing("ac", "t\0c")})
    assert ["".join(one.world.world for one in part.worlds), part.next_page_token] == ["ab", "t\0b"]
    part = join(state_pb2.ListWorldsRequest(), {"a": listing("bd"), "b": listing("ac", "t\0c")})
    assert ["".join(one.world.world for one in part.worlds), part.next_page_token] == ["abc", "t\0c"]


def test_a_merged_watch_resumes_each_replica_where_it_was_and_meets_a_gap_where_others_serve() -> None:
    how: Resumed = GATHERED["state/WatchNpcs"]
    listed = GATHERED["state/ListNpcs"].join(
        state_pb2.ListNpcsRequest(),
        {"a": state_pb2.ListNpcsResponse(resume_token="1"), "b": state_pb2.ListNpcsResponse(resume_token="7")},
    )
    request = state_pb2.WatchNpcsRequest(resume_token=listed.resume_token)
    requests = how.requests(request, ["a", "b"])
    assert requests is not None
    assert {address: asked.resume_token for address, asked in requests.items()} == {"a": "1", "b": "7"}
    told = how.stamp(request, requests, "b", state_pb2.WatchNpcsResponse(resume_token="8"))
    later = how.requests(state_pb2.WatchNpcsRequest(resume_token=told.resume_token), ["a", "b"])
    assert later is not None
    assert later["b"].resume_token == "8"
    assert how.requests(request, ["a", "c"]) is None
    assert how.requests(state_pb2.WatchNpcsRequest(resume_token="spoilt"), ["a"]) is None


def test_an_erasure_is_as_far_as_its_least_advanced_part() -> None:
    def part(state: str, removed: int) -> chat_pb2.GetErasureResponse:
        receipt = type_pb2.ErasureReceipt(store="chat", removed=removed)
        return chat_pb2.GetErasureResponse(erasure_id="e", state=state, receipts=[receipt])

    request = chat_pb2.GetErasureRequest(tenant="t", erasure_id="e")
    joined = GATHERED["chat/GetErasure"].join(request, {"a": part("done", 2), "b": part("purging", 3)})
    assert (joined.state, [(one.store, one.removed) for one in joined.receipts]) == ("purging", [("chat", 5)])


def test_ids_of_replicas_never_meet_and_grow_when_a_clock_stands_or_goes_back() -> None:
    rows = RedisRows("redis://127.0.0.1:1/0", "chat")
    times = iter([5, 5, 5, 4, 4, 9, *[9] * 5000])
    one = Mirror(Layout(), rows, 1, now_ms=lambda: next(times))
    other = Mirror(Layout(), rows, 2, now_ms=lambda: 5)
    mine = [one._fresh() for _ in range(5006)]
    assert mine == sorted(set(mine))
    assert not {other._fresh() for _ in range(100)} & set(mine)
    assert max(mine) < 1 << 63
    assert named("t", "w", "mara") == named("t", "w", "mara") != named("t", "", "mara")
    rows.close()
