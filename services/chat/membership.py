"""Conversations follow clusters: joins, leaves, merges and splits, also in the middle of a turn (D1, D4)."""

from __future__ import annotations

from msgspec.structs import replace

from services.chat import award, floor, initiative, judgement, outside, sessions
from services.chat.conversation import SOLO, Conversation, Turn, Wish
from services.chat.draft import Draft
from services.chat.events import Moved, Noticed
from services.chat.inputs import Cluster, Observed, Transition
from services.chat.policy import NPC, PLAYER, Participant
from services.chat.rhythm import without

NOTICED = {"formed", "joined", "left", "merged", "split"}


def observed(draft: Draft, item: Observed) -> None:
    """Bring conversations to a revision. Changes are logged before anything else of that revision."""
    if item.revision < draft.revision or (item.revision == draft.revision and item.closed == draft.closed):
        return
    clusters = {cluster.lineage: cluster for cluster in item.clusters}
    before = {c.id: c for c in draft.conversations.values() if not c.id.startswith(SOLO)}
    changes = _changes(draft, item, clusters, before)
    draft.revision, draft.epoch, draft.closed = item.revision, item.epoch, item.closed
    known = _names(draft) if changes else {}
    for change in changes:
        _announce(draft, change, clusters, known)
    _rebuild(draft, clusters, before, changes)
    _move_turns(draft, before)
    _move_utterances(draft, clusters, before, changes)
    sessions.presence(draft)
    if item.closed:
        sessions.end_all(draft)
    _expect_greetings(draft, before)
    _wish(draft, item)


def _changes(
    draft: Draft, item: Observed, clusters: dict[str, Cluster], before: dict[str, Conversation]
) -> list[Transition]:
    """The transitions since the known revision; where they are not complete, what a comparison shows."""
    if not item.gap and draft.revision:
        return [change for change in item.transitions if change.revision > draft.revision]
    found: list[Transition] = []
    for lineage, cluster in clusters.items():
        now = tuple(person.id for person in cluster.members)
        if lineage not in before:
            found.append(Transition("formed", lineage, now, "", item.revision))
            continue
        was = before[lineage].members
        came = tuple(name for name in now if name not in was)
        went = tuple(name for name in was if name not in now)
        if came:
            found.append(Transition("joined", lineage, came, "", item.revision))
        if went:
            found.append(Transition("left", lineage, went, "", item.revision))
    found.extend(
        Transition("dissolved", lineage, tuple(conversation.members), "", item.revision)
        for lineage, conversation in before.items()
        if lineage not in clusters
    )
    return found


def _names(draft: Draft) -> dict[str, str]:
    """Display names of everyone who was within earshot of an NPC, by id."""
    names: dict[str, str] = {}
    for conversation in draft.conversations.values():
        for person in conversation.members.values():
            names.setdefault(person.id, person.name)
    return names


def _announce(draft: Draft, change: Transition, clusters: dict[str, Cluster], known: dict[str, str]) -> None:
    """Log a change, and beside it a notice that says who is there now."""
    cluster = clusters.get(change.lineage)
    members = cluster.members if cluster else ()
    named = change.member_ids if draft.rules.outside_in_game else outside.in_game(change.member_ids)
    if named:
        apart = not draft.rules.outside_in_game
        shown = tuple([person for person in members if not outside.outside(person.id)]) if apart else members
        draft.emit(change.lineage, Moved(change.type, named, change.other, shown), revision=change.revision)
    npcs = tuple(person.id for person in members if person.kind == NPC)
    if npcs and change.type in NOTICED:
        players = tuple(person.id for person in members if person.kind == PLAYER)
        concerned = (*players, *change.member_ids)
        audience = outside.only(concerned) if draft.apart(*concerned) else players
        persons = tuple(dict.fromkeys((*players, *(name for name in change.member_ids if name not in npcs))))
        text = _notice(change, members, known)
        draft.emit(change.lineage, Noticed(text, audience, npcs, persons), revision=change.revision)


def _notice(change: Transition, members: tuple[Participant, ...], known: dict[str, str]) -> str:
    here = {person.id: person.name for person in members}
    who = _listed([here.get(name) or known.get(name, "someone") for name in change.member_ids]) or "someone"
    verb = {
        "formed": "are now within earshot of each other",
        "joined": "came within earshot",
        "left": "went out of earshot",
        "merged": "joined with their group",
        "split": "are now a group of their own",
    }[change.type]
    present = _listed([f"{person.name} ({person.kind})" for person in members])
    return f"[SYSTEM] {who} {verb}. Within earshot now: {present}."


def _listed(names: list[str]) -> str:
    return names[0] if len(names) == 1 else ", ".join(names[:-1]) + " and " + names[-1] if names else ""


def _rebuild(
    draft: Draft, clusters: dict[str, Cluster], before: dict[str, Conversation], changes: list[Transition]
) -> None:
    """One conversation per cluster with an NPC; a part that split off keeps the rhythm of where it came from."""
    origin = {change.lineage: change.other for change in changes if change.type == "split" and change.other}
    for lineage in before:
        del draft.conversations[lineage]
    for lineage, cluster in clusters.items():
        if not any(person.kind == NPC for person in cluster.members):
            continue
        members = {person.id: person for person in cluster.members}
        old = before.get(lineage) or before.get(origin.get(lineage, ""))
        if old is None:
            draft.conversations[lineage] = Conversation(lineage, members, cluster.place, last_ms=draft.at)
            continue
        if old.id == lineage and old.floor is None and old.place == cluster.place and old.members == members:
            draft.conversations[lineage] = old
            continue
        gone = [name for name in old.members if name not in members]
        kept = old if old.id == lineage else replace(old, id=lineage, floor=None, owed=(), undecided="", latest="")
        draft.conversations[lineage] = replace(
            kept, members=members, place=cluster.place, floor=None, rhythm=without(old.rhythm, gone)
        )


def _move_turns(draft: Draft, before: dict[str, Conversation]) -> None:
    """A turn follows its speaker; of two that meet, the one that is at home stays, else the older."""
    for old in sorted(before.values(), key=lambda c: (c.floor.granted_ms if c.floor else 0, c.id)):
        turn = old.floor
        if turn is None:
            continue
        home = draft.home(turn.npc_id)
        reason = ""
        if home is None:
            reason = "LEFT"
        elif not home.players() and not draft.law(home).npc_to_npc and turn.kind != award.DECIDE:
            reason = "NOBODY_LISTENS"
        elif home.floor is not None and home.id != old.id:
            reason = "MERGED"
        if not reason and home is not None:
            if home.floor is not None:
                _end(draft, home.id, "MERGED")
            draft.change(home.id, floor=turn, npc_turns=_fewer(draft, home.id, old))
            continue
        _end_elsewhere(draft, old, home, turn, reason)


def _fewer(draft: Draft, conversation_id: str, other: Conversation) -> int:
    """NPC turns since a player spoke, where two conversations become one: a player of either counts."""
    return min(draft.conversations[conversation_id].npc_turns, other.npc_turns)


def _end(draft: Draft, conversation_id: str, reason: str) -> None:
    turn = floor.close(draft, conversation_id, "cancelled", reason, running=True)
    _repay(draft, conversation_id, turn)


def _end_elsewhere(draft: Draft, old: Conversation, home: Conversation | None, turn: Turn, reason: str) -> None:
    """End a turn whose conversation is gone: borrow its old place for the log, then let go of it."""
    taken = draft.conversations.get(old.id)
    draft.conversations[old.id] = replace(taken or old, floor=turn)
    unanswered = turn.obliged and not turn.sentences and reason != "MERGED"
    floor.close(draft, old.id, "failed" if unanswered else "cancelled", reason, running=True)
    if taken is None:
        del draft.conversations[old.id]
    else:
        draft.change(old.id, floor=taken.floor)
    if home is not None and reason == "MERGED":
        _repay(draft, home.id, turn)
        draft.change(home.id, npc_turns=_fewer(draft, home.id, old))


def _repay(draft: Draft, conversation_id: str, turn: Turn) -> None:
    """An addressed NPC that was cut off before a word still owes its answer."""
    if turn.obliged and not turn.sentences and turn.causes:
        judgement.owe(draft, conversation_id, judgement.owed_again(turn))


def _move_utterances(
    draft: Draft, clusters: dict[str, Cluster], before: dict[str, Conversation], changes: list[Transition]
) -> None:
    """Open utterances go where their speaker went; obligations where the NPC went, else they fail visibly."""
    into = {change.other: change.lineage for change in changes if change.type == "merged" and change.other}
    for utterance in list(draft.open.values()):
        followed = draft.home(utterance.speaker_id)
        place = followed.id if followed else utterance.conversation_id
        if place not in draft.conversations:
            place = into.get(place, place)
        draft.change_utterance(utterance.id, conversation_id=place)
        if place not in draft.conversations:
            draft.disarm(f"gather:{utterance.id}")
            draft.change_utterance(utterance.id, gathering=False, reason=utterance.reason or "LEFT")
    for old in before.values():
        undecided = draft.open.get(old.undecided)
        if undecided is not None and old.id not in draft.conversations:
            _undecided_moves(draft, undecided.id, undecided.conversation_id)
        for owed in old.owed:
            home = draft.home(owed.npc_id)
            if home is None:
                award.fail_owed(draft, old.id, owed, "LEFT")
            elif home.id != old.id:
                draft.change(home.id, npc_turns=_fewer(draft, home.id, old))
                judgement.owe(draft, home.id, owed)
        here = draft.conversations.get(old.id)
        if here is None:
            draft.disarm(f"silence:{old.id}")
        elif here.owed:
            draft.change(old.id, owed=tuple(owed for owed in here.owed if owed.npc_id in here.members))


def _undecided_moves(draft: Draft, utterance_id: str, conversation_id: str) -> None:
    here = draft.conversations.get(conversation_id)
    if here is not None and here.undecided != utterance_id:
        draft.change_utterance(here.undecided, reason="SUPERSEDED")
        draft.change(conversation_id, undecided=utterance_id)


def _expect_greetings(draft: Draft, before: dict[str, Conversation]) -> None:
    """Arm one greeting for each conversation that players have newly entered."""
    if draft.legacy:
        return
    for conversation in draft.conversations.values():
        if conversation.id.startswith(SOLO) or not draft.law(conversation).greetings:
            continue
        old = before.get(conversation.id)
        arrived = [player for player in conversation.players() if old is None or player not in old.members]
        if arrived and f"greet:{conversation.id}" not in draft.timers:
            draft.arm(f"greet:{conversation.id}", draft.rules.greeting_delay_ms)


def _wish(draft: Draft, item: Observed) -> None:
    """Decisions without chat that the revision's events and combat changes ask for."""
    for wish in item.wishes:
        rested = draft.at - draft.decided_ms.get(wish.npc.id, -draft.rules.cooldown_decide_ms)
        if rested >= draft.rules.cooldown_decide_ms or wish.urgent:
            where = initiative.place(draft, wish.npc)
            speech = bool(draft.conversations[where].players())
            initiative.want(draft, Wish(wish.npc.id, (wish.reason,), speech, wish.urgent))
