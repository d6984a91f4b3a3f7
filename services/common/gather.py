"""How answers of all replicas become one: by call, `<room>/<Call>`.

The kernel knows the contracts' messages and no room: merging is about repeated fields and tokens only.
"""

from __future__ import annotations

import json
import uuid
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from earshot.state.v1 import state_pb2

# Calls about NPCs of several worlds: a repeated `npcs`, and one answer for each.
SPLIT = frozenset({"state/BatchGetNpcContext", "sync/Refresh"})


@dataclass(frozen=True, slots=True)
class Joined:
    """Unary: `join` makes one answer of those by address.

    prepare: what every replica is asked; lacking: one that answers NOT_FOUND just has no part in it.
    """

    join: Callable[[Any, Mapping[str, Any]], Any]
    prepare: Callable[[Any], Any] = lambda request: request
    lacking: bool = False


@dataclass(frozen=True, slots=True)
class Rung:
    """Streams without a place to resume: messages as they come."""

    gap: Any = None

    def requests(self, request: Any, addresses: Sequence[str]) -> dict[str, Any] | None:
        return dict.fromkeys(addresses, request)

    def stamp(self, request: Any, requests: dict[str, Any], address: str, message: Any) -> Any:
        return message


@dataclass(frozen=True, slots=True)
class Resumed:
    """Streams that resume by a token: the token of all is every replica's own; other replicas than those = a gap."""

    gap: Any

    def requests(self, request: Any, addresses: Sequence[str]) -> dict[str, Any] | None:
        tokens = _tokens(request.resume_token)
        if request.resume_token and tokens.keys() != set(addresses):
            return None
        made = {}
        for address in addresses:
            made[address] = type(request)()
            made[address].CopyFrom(request)
            made[address].resume_token = tokens.get(address, "")
        return made

    def stamp(self, request: Any, requests: dict[str, Any], address: str, message: Any) -> Any:
        requests[address].resume_token = message.resume_token
        message.resume_token = _token({one: asked.resume_token for one, asked in requests.items()})
        return message


def _token(tokens: Mapping[str, str]) -> str:
    return json.dumps(tokens, sort_keys=True)


def _tokens(token: str) -> dict[str, str]:
    try:
        found = json.loads(token) if token else {}
    except ValueError:
        return {}
    return found if isinstance(found, dict) else {}


def _npcs(request: Any, answers: Mapping[str, Any]) -> Any:
    return state_pb2.ListNpcsResponse(
        resume_token=_token({address: answer.resume_token for address, answer in answers.items()}),
        npcs=[npc for answer in answers.values() for npc in answer.npcs],
    )


def _worlds(request: Any, answers: Mapping[str, Any]) -> Any:
    """A page of all: every replica answered a page that begins at the same place."""

    def ref(one: Any) -> tuple[str, str]:
        return one.world.tenant, one.world.world

    found = sorted((one for answer in answers.values() for one in answer.worlds), key=ref)
    ends = [ref(answer.worlds[-1]) for answer in answers.values() if answer.next_page_token and answer.worlds]
    # What lies beyond the end of a page that goes on may not be all that is there.
    whole = [one for one in found if not ends or ref(one) <= min(ends)]
    page = whole[: request.page_size or len(whole)]
    more = page and (ends or len(page) < len(found))
    return state_pb2.ListWorldsResponse(worlds=page, next_page_token="\0".join(ref(page[-1])) if more else "")


def _description(request: Any, answers: Mapping[str, Any]) -> Any:
    rank = ("stored", "composed", "unknown")
    return min(answers.values(), key=lambda one: rank.index(one.source) if one.source in rank else len(rank))


def _receipts(request: Any, answers: Mapping[str, Any]) -> Any:
    """One receipt a store: what all of them removed."""
    merged: dict[tuple[str, str], Any] = {}
    some = None
    for answer in answers.values():
        some = answer
        for receipt in answer.receipts:
            key = (receipt.store, receipt.not_erasable)
            if key in merged:
                merged[key].removed += receipt.removed
            else:
                merged[key] = type(receipt)()
                merged[key].CopyFrom(receipt)
    return type(some)(receipts=list(merged.values()))  # type: ignore[misc]  # there is always a replica


def _named(request: Any) -> Any:
    """The parts of a job carry one id."""
    if not request.erasure_id:
        request.erasure_id = f"e-{uuid.uuid4().hex}"
    return request


def _erasure(request: Any, answers: Mapping[str, Any]) -> Any:
    """A job is as far as its least advanced part."""
    order = ("failed", "pending", "purging", "done")
    joined = _receipts(request, answers)
    joined.erasure_id = request.erasure_id
    joined.state = min((answer.state for answer in answers.values()), key=order.index)
    return joined


GATHERED: Mapping[str, Any] = {
    "state/ListNpcs": Joined(_npcs),
    "state/WatchNpcs": Resumed(state_pb2.WatchNpcsResponse(gap=True)),
    "state/WatchWorlds": Rung(),
    "state/ListWorlds": Joined(_worlds),
    "state/DescribePlayer": Joined(_description),
    "state/ErasePlayer": Joined(_receipts),
    "sync/ErasePlayer": Joined(_receipts),
    "chat/ErasePlayer": Joined(lambda _, answers: next(iter(answers.values())), _named),
    "chat/GetErasure": Joined(_erasure, lacking=True),
}
