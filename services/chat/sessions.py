"""Players' sessions: when one ends, what was said in it leaves every prompt (memory scope `session`)."""

from __future__ import annotations

from msgspec.structs import replace

from services.chat import floor
from services.chat.conversation import Session
from services.chat.draft import Draft
from services.chat.effects import Locate, Settled
from services.chat.inputs import Retracted
from services.chat.rhythm import Rhythm, knows


def presence(draft: Draft) -> None:
    """Note who is within an NPC's earshot; those who are not any more are looked for later."""
    # In order, not a set: the state's bytes must not depend on the process.
    present = dict.fromkeys(player for known in draft.conversations.values() for player in known.players())
    for player in present:
        session = draft.sessions.get(player)
        if session is None or not session.present:
            draft.sessions[player] = Session(draft.session(player), draft.at, present=True)
            draft.disarm(f"absence:{player}")
    for player, session in list(draft.sessions.items()):
        if player not in present and session.present:
            draft.sessions[player] = Session(session.number, draft.at, present=False)
        if player not in present and f"absence:{player}" not in draft.timers:
            draft.arm(f"absence:{player}", draft.rules.absence_ms)


def absent(draft: Draft, player: str) -> None:
    """A player has been out of earshot for long: find out whether it is still in the world."""
    session = draft.sessions.get(player)
    if session is not None and not session.present:
        draft.do(Locate(player))


def located(draft: Draft, player: str, *, present: bool) -> None:
    """Still in the world: look again later. Gone: the session ends."""
    session = draft.sessions.get(player)
    if session is None or session.present:
        return
    if present:
        draft.arm(f"absence:{player}", draft.rules.absence_ms)
    else:
        end(draft, player)


def end(draft: Draft, player: str) -> None:
    """End a session: agents that heard the player start over without what it said."""
    draft.sessions.pop(player, None)
    draft.disarm(f"absence:{player}")
    draft.recent.pop(player, None)
    for npc, players in list(draft.heard.items()):
        if player in players:
            draft.heard[npc] = tuple(other for other in players if other != player)
            draft.generations[npc] = draft.generations.get(npc, 0) + 1


def retract(draft: Draft, item: Retracted) -> None:
    """A line is not what it was: who heard it starts over, and nobody answers what was taken back."""
    for npc in item.hearers:
        draft.generations[npc] = draft.generations.get(npc, 0) + 1
    if not item.gone:
        return
    for where, turn in list(draft.floors()):
        if item.utterance_id in turn.causes and not turn.sentences:
            floor.close(draft, where, "cancelled", "RETRACTED", running=True)
    if item.utterance_id in draft.open:
        utterance = draft.open.pop(item.utterance_id)
        draft.disarm(f"gather:{utterance.id}")
        draft.do(Settled(utterance.id, "RETRACTED", failed=False, turn_id=utterance.turn_id, replies=utterance.replies))
    for conversation in list(draft.conversations.values()):
        draft.change(
            conversation.id,
            owed=tuple(owed for owed in conversation.owed if owed.utterance_id != item.utterance_id),
            undecided="" if conversation.undecided == item.utterance_id else conversation.undecided,
            latest="" if conversation.latest == item.utterance_id else conversation.latest,
        )


def end_all(draft: Draft) -> None:
    """The world closed."""
    for player in list(draft.sessions):
        end(draft, player)


def erase(draft: Draft, player: str) -> None:
    """Remove a player from the state. The game's next snapshot may bring it back, as a stranger."""
    for where, turn in list(draft.floors()):
        if turn.cause_player == player:
            floor.close(draft, where, "cancelled", "ERASED", running=True)
    for utterance in list(draft.open.values()):
        if utterance.speaker_id == player:
            del draft.open[utterance.id]
            draft.do(Settled(utterance.id, "ERASED", failed=True, turn_id="", replies=()))
        elif player in utterance.addressed:
            others = tuple(name for name in utterance.addressed if name != player)
            draft.change_utterance(utterance.id, addressed=others)
    end(draft, player)
    draft.spent.pop(player, None)
    draft.wishes = {npc: wish for npc, wish in draft.wishes.items() if player not in "\n".join(wish.reasons)}
    for conversation in list(draft.conversations.values()):
        members = {name: person for name, person in conversation.members.items() if name != player}
        draft.change(
            conversation.id,
            members=members,
            rhythm=Rhythm() if knows(conversation.rhythm, player) else conversation.rhythm,
            owed=tuple(replace(owed, decision=None) for owed in conversation.owed if owed.player_id != player),
            undecided=conversation.undecided if conversation.undecided in draft.open else "",
            latest=conversation.latest if conversation.latest in draft.open else "",
            greeted={name: at for name, at in conversation.greeted.items() if name != player},
        )
        if draft.conversations[conversation.id].floor is not None:
            draft.change_turn(conversation.id, decision=None)
