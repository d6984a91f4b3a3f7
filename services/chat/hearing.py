"""A line by a player or the game: logged, de-duplicated, heard by the conversation, then judged (D1, D5)."""

from __future__ import annotations

import hashlib
import re

from services.chat import award, cues, floor, initiative, judgement, outside, share, vocative
from services.chat.conversation import Conversation, Session, Utterance
from services.chat.draft import Draft
from services.chat.effects import Accepted, Settled
from services.chat.events import Noticed, Said
from services.chat.inputs import Heard
from services.chat.policy import PLAYER
from services.chat.rhythm import hear as next_rhythm

OK = "ok"
# The existing game announces a click on an NPC in prose.
_CLICK = re.compile(r"\bclicked to interact\b", re.IGNORECASE)
_SYSTEM = "system"


def heard(draft: Draft, item: Heard) -> None:
    """Take in one line."""
    draft.legacy = draft.legacy or bool(item.waiting_npc)
    draft.revision = max(draft.revision, item.revision)
    if _seen(draft, item):
        return
    conversation = draft.home(item.speaker.id)
    seq = draft.next_seq
    utterance_id = f"u-{draft.digest}-{seq}"
    draft.recent[item.speaker.id] = (_digest(item), utterance_id, draft.at)
    audible = conversation is not None and item.verdict == OK
    _log(draft, item, conversation, utterance_id, audible=audible)
    where = conversation.id if conversation else ""
    draft.do(Accepted(utterance_id, where, seq, draft.revision, duplicate=False, unheard=conversation is None))
    if conversation is None:
        return
    if not audible:
        _answer_moderated(draft, item, conversation, utterance_id)
        return
    _enter(draft, item, conversation, utterance_id, seq)
    if item.waiting_npc:
        draft.arm(f"gather:{utterance_id}", draft.rules.gather_ms)
    else:
        decide(draft, utterance_id)


def decide(draft: Draft, utterance_id: str) -> None:
    """Judge a line whose calls have been gathered: the one of an NPC that it names may be late."""
    utterance = draft.open.get(utterance_id)
    if utterance is None:
        return
    left_ms = utterance.at_ms + draft.rules.same_text_ms - draft.at
    if left_ms > 0 and _uncalled(draft, utterance):
        draft.arm(f"gather:{utterance_id}", left_ms)
        return
    draft.change_utterance(utterance_id, gathering=False)
    if utterance.system and not utterance.direct:
        if not initiative.greet(draft, utterance.conversation_id, utterance.speaker_id, utterance):
            award.keep_silent(draft, draft.open[utterance_id], "COOLDOWN")
        return
    judgement.judge(draft, utterance_id)


def settle(draft: Draft) -> None:
    """Let go of utterances of which nothing more can come."""
    busy: set[str] = set()
    for conversation in draft.conversations.values():
        busy.add(conversation.undecided)
        busy.update(owed.utterance_id for owed in conversation.owed)
        if conversation.floor is not None:
            busy.update(conversation.floor.causes)
    for utterance in list(draft.open.values()):
        if utterance.gathering or utterance.id in busy:
            continue
        del draft.open[utterance.id]
        draft.do(Settled(utterance.id, utterance.reason, utterance.failed, utterance.turn_id, utterance.replies))


def _seen(draft: Draft, item: Heard) -> bool:
    """Equal lines of one speaker within a second are one; the existing game's calls for it are gathered."""
    recent = draft.recent.get(item.speaker.id)
    if recent is None:
        return False
    digest, utterance_id, at = recent
    if digest != _digest(item) or draft.at - at >= draft.rules.same_text_ms:
        return False
    utterance = draft.open.get(utterance_id)
    joins = (
        utterance is not None
        and utterance.gathering
        and bool(item.waiting_npc)
        and item.waiting_npc not in utterance.waiting
    )
    if utterance is not None and joins:
        direct = utterance.direct or _direct(item)
        draft.change_utterance(utterance_id, waiting=(*utterance.waiting, item.waiting_npc), direct=direct)
    where = utterance.conversation_id if utterance else ""
    seq = utterance.seq if utterance else 0
    draft.do(Accepted(utterance_id, where, seq, draft.revision, duplicate=not joins, unheard=False))
    if joins and draft.at - draft.open[utterance_id].at_ms >= draft.rules.gather_ms:
        # The late one, perhaps.
        draft.disarm(f"gather:{utterance_id}")
        decide(draft, utterance_id)
    return True


def _uncalled(draft: Draft, utterance: Utterance) -> bool:
    """Whether an NPC that the existing game's line names has no call waiting, and so may not answer."""
    conversation = draft.conversations.get(utterance.conversation_id)
    here = conversation.npcs() if conversation is not None and utterance.waiting else ()
    return any(npc in here and npc not in utterance.waiting for npc in utterance.addressed)


def _log(draft: Draft, item: Heard, conversation: Conversation | None, utterance_id: str, *, audible: bool) -> None:
    hearers = conversation.npcs() if conversation is not None and audible else ()
    players = conversation.players() if conversation is not None else (item.speaker.id,)
    is_player = item.speaker.kind == PLAYER
    if is_player:
        number = draft.session(item.speaker.id)
        draft.sessions[item.speaker.id] = Session(number, draft.at, present=conversation is not None)
    if is_player and hearers and draft.rules.player_talk_day_ms:
        floor.talked(draft, item.speaker.id)
    for npc in hearers if is_player else ():
        known = draft.heard.get(npc, ())
        if item.speaker.id not in known:
            draft.heard[npc] = (*known, item.speaker.id)
    where = conversation.id if conversation else ""
    if item.system:
        draft.emit(where, Noticed(item.text, (), hearers, persons=(item.speaker.id,)))
        return
    draft.emit(
        where,
        Said(
            utterance_id=utterance_id,
            speaker_id=item.speaker.id,
            speaker_name=item.speaker.name,
            speaker_kind=item.speaker.kind,
            text=item.text,
            audience=outside.only(players) if draft.apart(item.speaker.id) else players,
            cause_user_id=item.speaker.id if is_player else next(iter(players), ""),
            expires_at_ms=draft.at + draft.rules.utterance_ttl_ms,
            hearers=hearers,
        ),
    )


def _answer_moderated(draft: Draft, item: Heard, conversation: Conversation, utterance_id: str) -> None:
    """No NPC is asked; the player alone gets the line that moderation chose, if any."""
    if item.notice:
        draft.emit(conversation.id, Noticed(item.notice, (item.speaker.id,)))
    draft.do(Settled(utterance_id, "SAFETY", failed=False, turn_id="", replies=()))


def _enter(draft: Draft, item: Heard, conversation: Conversation, utterance_id: str, seq: int) -> None:
    """Let the conversation hear it: a player has spoken, so chains, closed pairs and silence begin anew."""
    people = conversation.people
    ids = [person.id for person in people]
    address = vocative.NOBODY
    if not item.system:
        cast = [person.names or (person.name,) for person in people]
        address = vocative.parse(item.text, cast, ids.index(item.speaker.id))
        turn = conversation.floor
        if turn is not None:
            floor.listen(draft, conversation.id, turn)
        rhythm = next_rhythm(
            draft.conversations[conversation.id].rhythm, item.speaker.id, address, ids, cues.read(item.text)
        )
        # A line that the game gives an NPC is one more turn of a chain; a player's ends it.
        turns = 0 if item.speaker.kind == PLAYER else conversation.npc_turns + 1
        draft.change(conversation.id, rhythm=rhythm, npc_turns=turns)
        if item.speaker.kind == PLAYER:
            draft.change(conversation.id, goodbyes=(), closed_pairs=())
            share.spoke(draft, conversation.id)
    elif _direct(item):
        draft.change(conversation.id, npc_turns=0)
    draft.disarm(f"silence:{conversation.id}")
    draft.change(conversation.id, latest=utterance_id, last_ms=draft.at)
    draft.open[utterance_id] = Utterance(
        id=utterance_id,
        conversation_id=conversation.id,
        speaker_id=item.speaker.id,
        at_ms=draft.at,
        revision=item.revision,
        seq=seq,
        addressed=tuple(ids[i] for i in address.addressed),
        direct=_direct(item),
        waiting=(item.waiting_npc,) if item.waiting_npc else (),
        gathering=bool(item.waiting_npc),
        system=item.system,
    )


def _direct(item: Heard) -> str:
    """NPC that was clicked."""
    if item.to_npc:
        return item.to_npc
    return item.waiting_npc if item.system and _CLICK.search(item.text) else ""


def _digest(item: Heard) -> str:
    if item.system:
        return _SYSTEM + ("/click" if _CLICK.search(item.text) else "")
    return hashlib.blake2b(item.text.encode(), digest_size=8).hexdigest()
