"""How much NPCs take part where players talk with each other: the bar rises with the calls that their lines have cost.

A gate alone does not bound the cost: where most of those present are NPCs nearly every line is above it. Not touched:
who is addressed, a player alone with NPCs, and a player who asks on what an NPC has just answered it, whoever listens.
"""

from __future__ import annotations

from dataclasses import replace

from services.chat.conversation import Conversation
from services.chat.draft import Draft
from services.chat.rules import Rules

# What was long ago counts less: lines and calls fade by this per line of a player.
FADE = 0.95
# A conversation begins as if so many lines had cost so much each: nothing is raised by its first call.
PRIOR_LINES = 3.0
PRIOR_SHARE = 0.24
# tau rises by SLOPE times what the share exceeds the mean less MARGIN: obligations and silences take what lies between.
# Chosen on the train splits of the turn bench, where eight NPCs then cost 0.58 calls a line, after a first look at dev.
SLOPE = 20.0
MARGIN = 0.38


def spoke(draft: Draft, conversation_id: str) -> None:
    """A player said something that NPCs hear."""
    here = draft.conversations[conversation_id]
    draft.change(conversation_id, lines=here.lines * FADE + 1, calls=here.calls * FADE)


def called(draft: Draft, conversation_id: str) -> None:
    """A line of a player caused a runtime call."""
    draft.change(conversation_id, calls=draft.conversations[conversation_id].calls + 1)


def law(draft: Draft, conversation: Conversation) -> Rules:
    """The rules here, tau raised where several players talk and NPCs have already taken their part."""
    rules = draft.law(conversation)
    if not rules.calls_mean or len(conversation.players()) < 2 or _asks_on(conversation):
        return rules
    share = (conversation.calls + PRIOR_LINES * PRIOR_SHARE) / (conversation.lines + PRIOR_LINES)
    return replace(rules, tau=rules.tau + SLOPE * max(0.0, share - rules.calls_mean + MARGIN))


def _asks_on(conversation: Conversation) -> bool:
    """Whether the last line is a question by a player whom an NPC, still here, has just answered."""
    rhythm = conversation.rhythm
    if rhythm.run < 1 or rhythm.before not in conversation.npcs() or rhythm.speaker not in conversation.players():
        return False
    return rhythm.cues.question or rhythm.cues.asks_you
