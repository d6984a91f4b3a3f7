"""NPCs that begin by themselves: after an awkward silence, to greet, to decide without chat."""

from __future__ import annotations

from dataclasses import replace

from services.chat import award, floor, model, policy, scene
from services.chat.conversation import SOLO, Conversation, Utterance, Wish
from services.chat.draft import Draft
from services.chat.effects import WishSettled
from services.chat.policy import Participant


def break_silence(draft: Draft, conversation_id: str) -> None:
    """Nobody answered for an awkward while: score once more with a lower threshold."""
    conversation = draft.conversations.get(conversation_id)
    if conversation is None or conversation.floor is not None or not conversation.players():
        return
    if floor.capped(draft, conversation.rhythm.speaker):
        return
    view = replace(scene.scene_of(draft, conversation, conversation.rhythm.speaker), silence=True)
    decision = policy.decide(draft.law(conversation), view, model.default())
    draft.change(conversation_id, decisions=conversation.decisions + 1)
    if decision.speakers:
        award.grant_pick(draft, conversation_id, replace(decision, reason="SILENCE"), award.SILENCE, view.speaker, ())


def greet(draft: Draft, conversation_id: str, player_id: str, utterance: Utterance | None = None) -> bool:
    """Let one NPC greet an arriving player, once per player and conversation in a while."""
    conversation = draft.conversations.get(conversation_id)
    if conversation is None or player_id not in conversation.members or conversation.floor is not None:
        return False
    law = draft.law(conversation)
    if not law.greetings or floor.capped(draft, player_id) or greeted_lately(draft, conversation, player_id):
        return False
    if conversation.npc_turns >= law.turns_hard:
        return False
    view = replace(scene.scene_of(draft, conversation, conversation.rhythm.speaker, utterance=utterance), silence=True)
    anyone = replace(law, tau_silence=-1.0)
    decision = policy.decide(anyone, replace(view, npc_turns=0), model.default())
    draft.change(conversation_id, decisions=conversation.decisions + 1)
    if not decision.speakers:
        return False
    now = dict.fromkeys(conversation.players(), draft.at)
    draft.change(conversation_id, greeted={**conversation.greeted, **now})
    causes = (utterance.id,) if utterance is not None else ()
    award.grant_pick(draft, conversation_id, replace(decision, reason="GREETING"), award.GREETING, player_id, causes)
    return True


def greeted_lately(draft: Draft, conversation: Conversation, player_id: str) -> bool:
    """Whether the player's greeting here is still on cooldown."""
    at = conversation.greeted.get(player_id)
    return at is not None and draft.at - at < draft.law(conversation).cooldown_greeting_ms


def place(draft: Draft, npc: Participant) -> str:
    """The conversation in which an NPC decides: its cluster's, else one of its own."""
    home = draft.home(npc.id)
    if home is not None:
        return home.id
    alone = f"{SOLO}{npc.id}"
    if alone not in draft.conversations:
        draft.conversations[alone] = Conversation(alone, {npc.id: npc}, last_ms=draft.at)
    return alone


def want(draft: Draft, wish: Wish) -> None:
    """Merge a decision without chat into what the NPC is already to decide."""
    waiting = draft.wishes.get(wish.npc_id)
    if waiting is not None:
        wish = Wish(
            wish.npc_id,
            tuple(dict.fromkeys((*waiting.reasons, *wish.reasons))),
            waiting.speech or wish.speech,
            waiting.urgent or wish.urgent,
            (*waiting.requests, *wish.requests),
        )
    draft.wishes[wish.npc_id] = wish


def drop_wish(draft: Draft, npc_id: str, reason: str) -> None:
    """The NPC will not decide: tell who asked."""
    wish = draft.wishes.pop(npc_id, None)
    for request in wish.requests if wish else ():
        draft.do(WishSettled(request, "", "failed", reason, None))
