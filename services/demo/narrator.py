"""Tells what the public API answered, for a person: who is within earshot, who was refreshed, who spoke and why.

`tell` is a pure function: what was told so far and what happened now, in; the lines to show, out. Answers and events
are read as any client must read them: unknown fields are ignored, missing ones are no error.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from services.demo.frame import Utterance
from services.demo.names import Names
from services.demo.phrases import SILENT_BECAUSE, SPOKE_BECAUSE, action, duration, phrase, words
from services.demo.telling import Telling, kept
from services.demo.terminal import Line, Span, clean

Answer = Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Caption:
    """The storyteller's words."""

    text: str


@dataclass(frozen=True, slots=True)
class Applied:
    """A snapshot was answered."""

    answer: Answer


@dataclass(frozen=True, slots=True)
class Answered:
    """A message of ours was answered."""

    utterance: Utterance
    answer: Answer


@dataclass(frozen=True, slots=True)
class Heard:
    """An event of the world's log."""

    event: Answer


@dataclass(frozen=True, slots=True)
class Trouble:
    """Something between us and the server."""

    text: str


@dataclass(frozen=True, slots=True)
class Synced:
    """The world was read: how fresh its NPCs are."""

    answer: Answer


Happening = Caption | Applied | Answered | Heard | Trouble | Synced
Told = tuple[Telling, tuple[Line, ...]]


def begin(roster: Answer) -> Telling:
    """Start to tell a world whose roster is known."""
    return Telling(names=Names.of(roster))


def tell(telling: Telling, at: float, happening: Happening) -> Told:
    """Return the lines that tell one happening at a time of the story, and what is told after it."""
    match happening:
        case Caption(text):
            return _line(telling, at, Span(""), Span(clean(text), "story"))
        case Trouble(text):
            return _line(telling, at, Span("! trouble", "trouble"), Span(clean(text)))
        case Applied(answer):
            return _applied(telling, at, answer)
        case Answered(utterance, answer):
            return _answered(telling, at, utterance, answer)
        case Heard(event):
            return _heard(telling, at, event)
        case Synced(answer):
            return _synced(telling, at, answer)


def gathered(events: Sequence[Answer]) -> list[Answer]:
    """Join the sentences of a turn that came together, so that they are told as one line.

    Only sentences of other turns may stand between: what a player said keeps its place.
    """
    told: list[Answer] = []
    # Turn -> where in `told` its first sentence is.
    speaking: dict[str, int] = {}
    for event in events:
        turn, text = event.get("turn_id"), event.get("text")
        if event.get("type") != "utterance" or not isinstance(turn, str) or not turn or not isinstance(text, str):
            speaking.clear()
            told.append(event)
        elif turn in speaking:
            first = told[speaking[turn]]
            told[speaking[turn]] = {**first, "text": f"{first['text']} {text}"}
        else:
            speaking[turn] = len(told)
            told.append(event)
    return told


# -- snapshots: who is within earshot ----------------------------------------------------------------------------------


def _applied(telling: Telling, at: float, answer: Answer) -> Told:
    clusters = {clean(cluster.get("id")): _ids(cluster.get("members")) for cluster in _dicts(answer.get("clusters"))}
    lines: list[Line] = []
    for transition in _dicts(answer.get("transitions")):
        spans = _transition(telling, transition, clusters)
        if spans:
            lines.append(Line(at, Span("● earshot", "earshot"), spans))
    for refusal in _dicts(answer.get("refused")):
        text = f"{clean(refusal.get('path'))}: {words(refusal.get('reason'))}"
        if text not in telling.refused:
            telling = replace(telling, refused=kept(telling.refused, text))
            lines.append(Line(at, Span("! refused", "trouble"), (Span(text),)))
    return replace(telling, speaking="" if lines else telling.speaking), tuple(lines)


def _transition(telling: Telling, transition: Answer, clusters: Mapping[str, Sequence[str]]) -> tuple[Span, ...]:
    kind, changed = transition.get("type"), _ids(transition.get("members"))
    # Of a split the others are those who stayed in the old cluster.
    cluster = clean(transition.get("other" if kind == "split" else "cluster"))
    others = [id for id in clusters.get(cluster, ()) if id not in changed]
    who, rest = telling.names.several(changed), telling.names.several(others)
    one = len(changed) == 1
    match kind:
        case "formed":
            return (Span("+ "), *who, Span(" hear each other", "dim"))
        case "joined":
            return _towards("+ ", who, " joins " if one else " join ", rest)
        case "left":
            return _towards("- ", who, " leaves " if one else " leave ", rest)
        case "merged":
            return _towards("+ ", who, " merges with " if one else " merge with ", rest)
        case "split":
            return _towards("- ", who, " splits off from " if one else " split off from ", rest)
        case "dissolved":
            return (Span("- "), *who, Span(" part", "dim")) if who else ()
    return ()


def _towards(sign: str, who: tuple[Span, ...], verb: str, rest: tuple[Span, ...]) -> tuple[Span, ...]:
    if not rest:
        # Whom they joined or left is not in the answer any more.
        return (Span(sign), *who, Span(verb.removesuffix(" from ").removesuffix(" with ").rstrip(), "dim"))
    return (Span(sign), *who, Span(verb, "dim"), *rest)


# -- the world: who was refreshed though nobody asked ------------------------------------------------------------------


def _synced(telling: Telling, at: float, answer: Answer) -> Told:
    sync = answer.get("sync")
    before, now = telling.synced, dict(telling.synced or {})
    lines: list[Line] = []
    for status in _dicts(sync.get("npcs") if isinstance(sync, Mapping) else None):
        npc, writes, turns = clean(status.get("npc_id")), _number(status.get("writes")), _number(status.get("turns"))
        wrote, turned = now.get(npc, (0, 0))
        if writes != wrote and (telling.turns or status.get("in_flight") is True):
            # Perhaps a turn's own write, which is told with the turn: look again.
            continue
        now[npc] = (writes, turns)
        if before is not None and writes > wrote and turns == turned:
            text = f" now holds revision {_number(status.get('confirmed_revision'))} · written at once"
            lines.append(Line(at, Span("↻ refreshed", "dim"), (telling.names.who(npc), Span(text, "dim"))))
    telling = replace(telling, synced=now).count(pushes=len(lines))
    return replace(telling, speaking="" if lines else telling.speaking), tuple(lines)


# -- messages: why nobody answered -------------------------------------------------------------------------------------


def _answered(telling: Telling, at: float, utterance: Utterance, answer: Answer) -> Told:
    id = answer.get("utterance_id")
    match answer.get("outcome"):
        case "unheard":
            telling = telling.count(unheard=1)
            lines: list[Line] = []
            if id not in telling.said:
                telling = telling.hear(clean(id))
                lines.append(_speech(telling, at, utterance.speaker_id, utterance.speaker_name, utterance.text))
            lines.append(Line(at, Span("○ unheard", "silence"), (Span("no NPC is within earshot", "dim"),)))
            return replace(telling, speaking=""), tuple(lines)
        case "silent" if isinstance(id, str) and id:
            reason = answer.get("reason")
            if id in telling.said:
                return _silence(telling, at, id, reason, None)
            return telling.wait(id, reason if isinstance(reason, str) else ""), ()
        case "failed":
            # A turn that failed is an event too, and told there with the NPC's name.
            return telling, ()
    return telling, ()


def _silence(telling: Telling, at: float, id: str, reason: object, npc: Span | None) -> Told:
    """Tell once per utterance why nobody speaks: the answer and the event may come in any order."""
    if id and id in telling.silent:
        return telling, ()
    telling = replace(telling, silent=kept(telling.silent, id) if id else telling.silent).count(silences=1)
    because = phrase(SILENT_BECAUSE, reason) or "nobody speaks"
    spans = (npc, Span(f" {because}", "dim")) if npc is not None else (Span(because, "dim"),)
    return _line(telling, at, Span("○ silence", "silence"), *spans)


# -- events: speech, turns, actions ------------------------------------------------------------------------------------


def _heard(telling: Telling, at: float, event: Answer) -> Told:
    match event.get("type"):
        case "utterance":
            return _utterance(telling, at, event)
        case "turn":
            return _turn(telling, at, event)
        case "action":
            npc = telling.names.who(event.get("npc_id"))
            data = event.get("data")
            telling = telling.count(actions=1)
            return _line(telling, at, Span("★ action", "action"), npc, Span(f" {action(event.get('action'), data)}"))
        case "membership":
            names = telling.names
            for member in _dicts(event.get("members")):
                names = names.learn(member.get("id"), member.get("name"), member.get("kind"))
            return replace(telling, names=names), ()
    return telling, ()


def _utterance(telling: Telling, at: float, event: Answer) -> Told:
    speaker = event.get("speaker")
    speaker = speaker if isinstance(speaker, Mapping) else {}
    telling = replace(telling, names=telling.names.learn(speaker.get("id"), speaker.get("name"), speaker.get("kind")))
    id, turn, text = event.get("utterance_id"), event.get("turn_id"), clean(event.get("text"))
    if not isinstance(turn, str) or not turn:
        return _said(telling, at, speaker, text, clean(id))
    going_on = telling.speaking == turn
    telling = telling.speak(turn)
    line = _speech(telling, at, speaker.get("id"), speaker.get("name"), text)
    return telling, (Line(at, Span(""), line.spans) if going_on else line,)


def _said(telling: Telling, at: float, speaker: Answer, text: str, id: str) -> Told:
    """A player's line, once; then why nobody answers, if that is known already."""
    if id in telling.said:
        return telling, ()
    waiting = dict(telling.waiting)
    reason = waiting.pop(id, None)
    telling = replace(telling.hear(id), speaking="", waiting=waiting)
    told = (_speech(telling, at, speaker.get("id"), speaker.get("name"), text),)
    if reason is None:
        return telling, told
    telling, why = _silence(telling, at, id, reason, None)
    return telling, told + why


def _turn(telling: Telling, at: float, event: Answer) -> Told:
    turn, npc = clean(event.get("turn_id")), telling.names.who(event.get("npc_id"), event.get("npc_name"))
    phase, reason, cause = event.get("phase"), event.get("reason"), clean(event.get("cause_utterance_id"))
    if phase == "silent":
        return _silence(telling, at, cause or turn, reason, None)
    if phase == "started":
        telling = telling.ask(turn)
        if _number(event.get("revision_seen")):
            telling, lines = _refreshed(telling, at, npc, event, clean(reason))
            return telling.start(turn, ""), lines
        return telling.start(turn, clean(reason) or "TURN"), ()
    # None: never heard of; "": told when it started.
    why = telling.turns.get(turn)
    telling = telling.end(turn)
    match phase:
        case "ended":
            telling = telling.ask(turn).count(turns=1)
            if turn in telling.spoke:
                telling = telling.count(first_sentence_ms=_number(event.get("first_sentence_ms")), first_sentences=1)
            return (telling, ()) if why == "" else _refreshed(telling, at, npc, event, why or clean(reason))
        case "declined" if why == "DECIDE":
            # It was asked whether to act, without a word said: that it does not is no news.
            return telling.ask(turn), ()
        case "declined":
            return _silence(telling.ask(turn), at, turn, reason or "PASSED", npc)
        case "cancelled":
            because = phrase(SILENT_BECAUSE, reason)
            return _line(telling, at, Span("○ stopped", "silence"), npc, Span(f" stops: {because}", "dim"))
        case "failed":
            because = phrase(SILENT_BECAUSE, reason)
            telling = telling.count(failures=1)
            return _line(telling, at, Span("! failed", "trouble"), npc, Span(f" could not answer: {because}"))
    return telling, ()


def _refreshed(telling: Telling, at: float, npc: Span, event: Answer, reason: str) -> Told:
    revision, age, first = (_number(event.get(name)) for name in ("revision_seen", "age_ms", "first_sentence_ms"))
    parts = [
        phrase(SPOKE_BECAUSE, reason),
        f"revision {revision}, {duration(age)} old" if revision else "",
        f"after {duration(first)}" if clean(event.get("turn_id")) in telling.spoke else "",
        clean(event.get("runtime"), 24),
    ]
    told = " · ".join(part for part in parts if part) or "took a turn"
    return _line(telling, at, Span("↻ refreshed", "dim"), npc, Span(f" {told}", "dim"))


# -- lines -------------------------------------------------------------------------------------------------------------


def _line(telling: Telling, at: float, label: Span, *spans: Span) -> Told:
    return replace(telling, speaking=""), (Line(at, label, spans),)


def _speech(telling: Telling, at: float, id: object, name: object, text: str) -> Line:
    return Line(at, telling.names.who(id, name), (Span(clean(text)),))


# -- reading answers ---------------------------------------------------------------------------------------------------


def _dicts(value: object) -> list[Answer]:
    return [item for item in value if isinstance(item, Mapping)] if isinstance(value, list) else []


def _ids(value: object) -> list[str]:
    return [item for item in value if isinstance(item, str)] if isinstance(value, list) else []


def _number(value: object) -> int:
    return int(value) if isinstance(value, int | float) and value == value and abs(value) < 1e15 else 0
