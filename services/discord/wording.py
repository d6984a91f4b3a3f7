"""What is written to Discord: lines of NPCs within its limits, and the bot's own words. Pure."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from earshot.chat.v1 import chat_pb2

from services.discord.binding import PREFIX, Binding

LENGTH_MAX = 2000
NAME_MAX = 80
# Names that Discord lets no webhook have.
_FORBIDDEN = re.compile(r"clyde|discord", re.IGNORECASE)
_MARKS = re.compile(r"([\\`*_~|>\[\]#])")

NOTICE = (
    "**{npcs} can hear you here now.** They are AI. Messages that reach them are sent to the game's servers and its "
    "language model, and are kept as long as its operator says; edit or delete a message and it changes or goes there "
    "too. They hear {heard}. A moderator ends it with `/earshot unbind`."
)


@dataclass(frozen=True, slots=True)
class Post:
    """One message to send. seq: log number of the last line in it; npc "" = a player's line, relayed."""

    seq: int
    npc: str
    name: str
    text: str
    turn_id: str = ""


def posts(events: Iterable[chat_pb2.Event], binding: Binding) -> list[Post]:
    """Lines that belong into the channel, in order; neighbouring sentences of one turn are one message."""
    made: list[Post] = []
    for event in events:
        line = event.utterance if event.WhichOneof("event") == "utterance" else None
        if line is None or not _belongs(line, binding):
            continue
        npc = line.speaker_id if line.ai else ""
        last = made[-1] if made else None
        if last is not None and npc and last.turn_id == line.turn_id and len(last.text) + len(line.text) < LENGTH_MAX:
            made[-1] = Post(event.seq, npc, last.name, f"{last.text} {line.text}", line.turn_id)
        else:
            made.append(Post(event.seq, npc, line.speaker_name, line.text, line.turn_id))
    return made


def _belongs(line: chat_pb2.UtteranceEvent, binding: Binding) -> bool:
    if line.ai:
        here = binding.own_world or any(who.startswith(PREFIX) for who in line.audience_ids)
        return line.speaker_id in binding.npcs and here
    return binding.relay and not line.speaker_id.startswith(PREFIX)


def parts(text: str) -> list[str]:
    """A text in pieces of at most LENGTH_MAX characters, cut between words where it can be; never none."""
    pieces = []
    while len(text) > LENGTH_MAX:
        cut = text.rfind(" ", LENGTH_MAX // 2, LENGTH_MAX)
        cut = cut if cut > 0 else LENGTH_MAX
        pieces.append(text[:cut].rstrip())
        text = text[cut:].lstrip()
    return [*pieces, text or "…"]


def escaped(text: str) -> str:
    """Text that Discord shows as it is."""
    return _MARKS.sub(r"\\\1", text)


def name(shown: str) -> str:
    """A webhook's name."""
    kept = _FORBIDDEN.sub(lambda found: found.group()[0] + "." + found.group()[1:], shown).strip()
    return kept[:NAME_MAX] or "NPC"


def notice(binding: Binding, npcs: Sequence[str], *, content: bool) -> str:
    """What a channel is told when it is bound. content: the bot may read messages that do not mention it."""
    heard = "every message" if binding.mode == "all" and content else "messages that mention the bot or answer them"
    if content and binding.mode != "all":
        heard += " or name one of them"
        heard += f", and {binding.chance} % of the others" if binding.chance else ""
    return NOTICE.format(npcs=escaped(" and ".join(npcs)), heard=heard)


def explanation(told: chat_pb2.ExplainTurnResponse, binding: Binding) -> str:
    """Why an NPC spoke, for people: no text, ids of what it was reminded of, nobody's name who is in the game."""
    turn = told.turn
    lines = [
        f"**{escaped(turn.npc_name or 'Nobody')}**: {turn.reason or told.obligation or 'the gate'}"
        f" (turn `{turn.turn_id}`, runtime {turn.runtime or 'none'}, revision {turn.revision_seen})"
    ]
    shown = [one for one in told.candidates if one.id in binding.npcs or one.id.startswith(PREFIX)]
    if shown:
        best = sorted(shown, key=lambda one: -one.probability)[:4]
        scores = ", ".join(
            f"{escaped(one.name)} {one.probability:.0%}{' ' + one.excluded if one.excluded else ''}" for one in best
        )
        lines.append(f"Next to speak: {scores}; any NPC {told.p_any_npc:.0%} against {told.tau:.0%}")
    if told.recalled:
        named = ", ".join(f"`{one.utterance_id}` ({', '.join(sorted(one.legs))})" for one in told.recalled[:5])
        lines.append(f"Reminded of: {named}")
    if told.notes:
        lines.append(f"Notes: {', '.join(told.notes)}")
    return "\n".join(lines)[:LENGTH_MAX]
