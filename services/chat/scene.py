"""What a decision looks at: who is present, what was said, and which NPCs may not speak now. Pure."""

from __future__ import annotations

from services.chat import floor, vocative
from services.chat.conversation import SOLO, Conversation, Turn, Utterance
from services.chat.draft import Draft
from services.chat.policy import NOT_WAITING, Scene


def scene_of(draft: Draft, conversation: Conversation, speaker: str, *, utterance: Utterance | None = None) -> Scene:
    """The scene after `speaker` spoke; `utterance` when it was a player who did."""
    return Scene(
        present=conversation.people,
        rhythm=conversation.rhythm,
        speaker=speaker,
        addressed=utterance.addressed if utterance else (),
        direct=utterance.direct if utterance else "",
        excluded=excluded(draft, conversation, utterance),
        npc_turns=conversation.npc_turns,
        seed=f"{conversation.id}/{conversation.decisions}",
    )


def excluded(draft: Draft, conversation: Conversation, utterance: Utterance | None) -> dict[str, str]:
    """Why NPCs may not speak now unless obliged."""
    found: dict[str, str] = {}
    last, rest = conversation.rhythm.speaker, draft.law(conversation).cooldown_npc_ms
    for npc in conversation.npcs():
        pair = floor.pair_of(last, npc)
        if utterance is not None and utterance.waiting and npc not in utterance.waiting:
            found[npc] = NOT_WAITING
        elif busy(draft, npc):
            found[npc] = "BUSY"
        elif draft.at - draft.spoke_ms.get(npc, -rest) < rest:
            found[npc] = "COOLDOWN"
        elif pair in conversation.closed_pairs:
            found[npc] = "GOODBYE"
        elif _pair_is_hot(draft, conversation, pair):
            found[npc] = "PAIR_COOLDOWN"
    return found


def busy(draft: Draft, npc_id: str) -> bool:
    """Whether the NPC has a floor, here or alone."""
    return any(turn.npc_id == npc_id for _, turn in draft.floors())


def has_listeners(draft: Draft, conversation: Conversation) -> bool:
    """NPCs talk where a player is; among themselves only when the rules allow it."""
    return bool(conversation.players()) or draft.law(conversation).npc_to_npc


def may_add_a_line(draft: Draft, conversation: Conversation) -> bool:
    """A decision may be spoken as well, within the limits of a chain; an NPC alone talks to nobody but who asked.

    Who owes a player an answer and is busy elsewhere will have its turn of the chain.
    """
    if conversation.id.startswith(SOLO):
        return True
    spoken_for = conversation.npc_turns + len(conversation.owed)
    return has_listeners(draft, conversation) and spoken_for < draft.law(conversation).turns_hard


def addressed(conversation: Conversation, turn: Turn) -> tuple[str, ...]:
    """Whom a turn's words address."""
    people = conversation.people
    me = next((i for i, person in enumerate(people) if person.id == turn.npc_id), -1)
    found = vocative.parse(" ".join(turn.sentences), [person.names or (person.name,) for person in people], me)
    return tuple(people[i].id for i in found.addressed)


def _pair_is_hot(draft: Draft, conversation: Conversation, pair: str) -> bool:
    times = conversation.pair_turns.get(pair, ())
    recent = sum(draft.at - at < draft.rules.pair_window_ms for at in times)
    return recent >= draft.rules.pair_turns
