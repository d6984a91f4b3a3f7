"""What an NPC says without a model: intents found in the line it heard, answered from the scene. Pure and seeded."""

from __future__ import annotations

import json
import random
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from services.common.words import ANYBODYS
from services.sync.runtimes.port import Scene


@dataclass(frozen=True, slots=True)
class Reply:
    """What is said, and at most one tool call as (name, arguments)."""

    text: str
    call: tuple[str, str] | None = None


Intent = tuple[re.Pattern[str], Callable[[Scene, frozenset[str], random.Random], Reply | None]]
_EMOTES = {"wave": "wave", "dance": "dance", "laugh": "laugh", "cheer": "cheer", "point": "point", "sit": "sit"}
_WORD = re.compile(r"[a-z']{4,}")


def compose(scene: Scene, tools: frozenset[str], seed: str) -> Reply:
    """The NPC's reply. The same scene and seed give the same reply; a line said lately is not repeated."""
    rng = random.Random(f"{seed}:{scene.name}")
    if scene.reason == "decide":
        return _decide(scene, rng)
    if scene.reason == "greeting":
        return Reply(_greet(scene, rng))
    if scene.reason == "silence" or not scene.said:
        return Reply(_muse(scene, rng))
    asked = [intent(scene, tools, rng) for pattern, intent in _INTENTS if pattern.search(scene.said.lower())]
    found = [reply for reply in asked if reply is not None]
    acting = next((reply for reply in found if reply.call), None)
    if acting is not None:
        return acting
    if found:
        texts = list(dict.fromkeys(reply.text for reply in found))[:2]
        return Reply(" ".join(texts))
    return Reply(_remark(scene, rng))


# -- actions -----------------------------------------------------------------------------------------------------------


def _call(name: str, text: str, **arguments: str) -> Reply:
    return Reply(text, (name, json.dumps(arguments)))


def _follow(scene: Scene, tools: frozenset[str], rng: random.Random) -> Reply | None:
    if "follow" not in tools or not scene.speaker:
        return None
    text = rng.choice(
        ["Lead on, {0}. I am right behind you.", "Very well, {0}. After you.", "I will walk with you, {0}."]
    )
    return _call("follow", text.format(scene.speaker), target=scene.speaker)


def _unfollow(scene: Scene, tools: frozenset[str], rng: random.Random) -> Reply | None:
    if "unfollow" not in tools:
        return None
    return _call("unfollow", rng.choice(["As you wish, I stay here.", "Then I will wait here.", "Here I stand."]))


def _navigate(scene: Scene, tools: frozenset[str], rng: random.Random) -> Reply | None:
    said = scene.said.lower()
    place = max((p for p in scene.places if _bare(p) in said), key=len, default="")
    if "navigate" not in tools or not place:
        return None
    text = rng.choice(["To {0}, then.", "{0}? I know the way.", "Come, it is not far to {0}."])
    return _call("navigate", _capital(text.format(place)), location=place)


def _patrol(scene: Scene, tools: frozenset[str], rng: random.Random) -> Reply | None:
    if "patrol" not in tools:
        return None
    return _call(
        "patrol", rng.choice(["I will make my rounds.", "Time for another round, then.", "I will keep watch."])
    )


def _hunt(scene: Scene, tools: frozenset[str], rng: random.Random) -> Reply | None:
    said = scene.said.lower()
    target = next((n for n in (*scene.npcs, *scene.players) if n != scene.speaker and n.lower() in said), "")
    if "hunt" not in tools or not target:
        return None
    return _call("hunt", rng.choice(["{0} will not get far.", "I have my eye on {0}."]).format(target), target=target)


def _stop_hunt(scene: Scene, tools: frozenset[str], rng: random.Random) -> Reply | None:
    if "stop_hunt" not in tools:
        return None
    return _call("stop_hunt", rng.choice(["Fine. I let it go.", "Peace, then.", "I stand down."]))


def _emote(scene: Scene, tools: frozenset[str], rng: random.Random) -> Reply | None:
    said = scene.said.lower()
    emote = next((kind for word, kind in _EMOTES.items() if word in said), "")
    if "emote" not in tools or not emote:
        return None
    text = rng.choice(["For you, {0}, gladly.", "Like this, {0}?", "If it makes you smile, {0}."])
    return _call("emote", text.format(scene.speaker or "friend"), type=emote)


# -- questions ---------------------------------------------------------------------------------------------------------


def _where(scene: Scene, tools: frozenset[str], rng: random.Random) -> Reply | None:
    if not scene.place:
        return Reply(rng.choice(["Nowhere that has a name, I think.", "I could not tell you where we are."]))
    text = rng.choice(["We are {0}.", "This is where we stand: {0}.", "You find us {0}."])
    return Reply(text.format(scene.place))


def _who_here(scene: Scene, tools: frozenset[str], rng: random.Random) -> Reply | None:
    others = [name for name in (*scene.players, *scene.npcs) if name != scene.speaker]
    if not others:
        return Reply("There is nobody here but you and me." if scene.speaker else "There is nobody here but me.")
    return Reply(
        rng.choice(["I see {0} here with us.", "{0}, and the two of us.", "With us: {0}."]).format(_join(others))
    )


def _who_you(scene: Scene, tools: frozenset[str], rng: random.Random) -> Reply | None:
    about = _first_person(scene.persona)
    if about:
        return Reply(about if scene.name.lower() in about.lower() else f"I am {scene.name}. {about}")
    return Reply(f"They call me {scene.name}.")


def _how_you(scene: Scene, tools: frozenset[str], rng: random.Random) -> Reply | None:
    if scene.combat:
        return Reply(rng.choice(["Ask me when the fighting is over!", "Busy staying alive!"]))
    if 0 <= scene.health_percent <= 30:
        return Reply(rng.choice(["I have been better. I can barely stand.", "Badly hurt, if you must know."]))
    if 0 <= scene.health_percent <= 70:
        return Reply(rng.choice(["A few bruises, nothing more.", "It hurts only when I laugh."]))
    return Reply(rng.choice(["Well enough, thank you.", "I cannot complain.", "Better, now that there is company."]))


def _news(scene: Scene, tools: frozenset[str], rng: random.Random) -> Reply | None:
    if scene.happened:
        text = rng.choice(["You did not hear? {0}", "They say this much: {0}", "Since you ask: {0}"])
        return Reply(text.format(_sentence(scene.happened[-1])))
    if scene.left:
        return Reply(f"{scene.left[-1]} was here a moment ago, and is gone again.")
    return Reply(rng.choice(["All quiet, for once.", "Nothing that is worth a song.", "A calm day, so far."]))


def _doing(scene: Scene, tools: frozenset[str], rng: random.Random) -> Reply | None:
    action = scene.action.lower()
    if not action or action == "idle":
        return Reply(rng.choice(["Taking in the air.", "Nothing that cannot wait.", "Listening to you."]))
    return Reply(f"I am {action}, as you can see.")


def _hello(scene: Scene, tools: frozenset[str], rng: random.Random) -> Reply | None:
    return Reply(_greet(scene, rng))


def _bye(scene: Scene, tools: frozenset[str], rng: random.Random) -> Reply | None:
    own = [line for line in scene.lines if re.search(r"farewell|goodbye|safe|until|bye", line.lower())]
    plain = ["Farewell, {0}.", "Safe roads, {0}.", "Until next time, {0}."]
    return Reply(_fresh(scene, own or [line.format(scene.speaker or "friend") for line in plain], rng))


def _thanks(scene: Scene, tools: frozenset[str], rng: random.Random) -> Reply | None:
    return Reply(
        rng.choice(["Think nothing of it.", "You are welcome, {0}.", "Gladly done."]).format(scene.speaker or "friend")
    )


_INTENTS: Sequence[Intent] = (
    (re.compile(r"\b(stop following|stay (here|there)|wait here|don'?t follow)\b"), _unfollow),
    (re.compile(r"(?<!stop )(?<!not )(?<!don't )\b(follow (me|us)|come (with|along)|walk with me)\b"), _follow),
    (re.compile(r"\b(go|walk|run|take|lead|bring|head|guide)\b.*\bto\b"), _navigate),
    (re.compile(r"\b(stop (the )?hunt\w*|stand down|let (him|her|it|them) go)\b"), _stop_hunt),
    (re.compile(r"(?<!stop )\b(hunt|attack|chase|get (him|her|it|them))\b"), _hunt),
    (re.compile(r"\b(patrol|make your rounds|keep watch)\b"), _patrol),
    (re.compile(r"\b(" + "|".join(_EMOTES) + r")\b"), _emote),
    (re.compile(r"\bwhere (are|is|am)\b|\bwhat (is this|place)\b|\bthis place\b"), _where),
    (re.compile(r"\bwho('s| is| else| are| all)\b.*\b(here|with|around|there)\b|\banyone\b"), _who_here),
    (re.compile(r"\bwho are you\b|\byour name\b|\babout yourself\b|\bwhat do you do\b"), _who_you),
    (re.compile(r"\bhow are you\b|\bhow do you\b|\bare you (ok|okay|well|hurt|alright|all right)\b"), _how_you),
    (re.compile(r"\b(news|rumou?rs?|what('s| is| has)? (going on|happened|happening|new)|what happened)\b"), _news),
    (re.compile(r"\bwhat are you (doing|up to|making)\b"), _doing),
    (re.compile(r"\b(thanks|thank you|thx)\b"), _thanks),
    (re.compile(r"\b(bye|goodbye|farewell|good night|see you)\b"), _bye),
    (re.compile(r"^\W*(\w+\W+)?(hi|hello|hey|greetings|good (morning|day|evening)|welcome)\b"), _hello),
)


# -- without a question ------------------------------------------------------------------------------------------------


def _greet(scene: Scene, rng: random.Random) -> str:
    who = scene.speaker or next(iter(scene.players), "") or "friend"
    own = [
        line
        for line in scene.lines
        if re.search(r"\b(welcome|hello|greet|evening|morning|well met|come in)", line.lower())
    ]
    if own:
        return _fresh(scene, own, rng)
    place = f" You find me {scene.place}." if scene.place and rng.random() < 0.5 else ""
    return rng.choice(["Well met, {0}.", "Ah, {0}! Good to see you.", "Hello there, {0}."]).format(who) + place


def _muse(scene: Scene, rng: random.Random) -> str:
    thoughts = list(scene.lines)
    if scene.happened:
        thoughts.append(f"I keep thinking about it: {_sentence(scene.happened[-1])}")
    if scene.left:
        thoughts.append(f"I wonder where {scene.left[-1]} went.")
    if scene.place:
        thoughts.append("It has gone quiet here.")
    return _fresh(scene, thoughts or ["Hm.", "Quiet, is it not?"], rng)


def _decide(scene: Scene, rng: random.Random) -> Reply:
    if scene.combat:
        return Reply(_fresh(scene, ["Stay close to me!", "To arms!", "Not on my watch!"], rng))
    if scene.happened and scene.happened[-1].startswith("combat"):
        return Reply(_fresh(scene, ["It is over. Is everyone well?", "Well. That was brisk.", "All quiet again."], rng))
    if scene.happened:
        return Reply(f"Did you see that? {_sentence(scene.happened[-1])}")
    return Reply("PASS")


def _remark(scene: Scene, rng: random.Random) -> str:
    if scene.combat:
        return _fresh(scene, ["I see it! Keep back!", "Not now, I have my hands full!", "Behind me, quick!"], rng)
    heard = {word for word in _WORD.findall(scene.said.lower()) if word not in ANYBODYS}
    related = [line for line in scene.lines if heard & set(_WORD.findall(line.lower()))]
    if related:
        return _fresh(scene, related, rng)
    who = scene.speaker or "friend"
    question = scene.said.rstrip().endswith("?")
    plain = (
        ["That I cannot say, {0}.", "A good question, {0}. Ask me again when I know.", "Who knows, {0}?"]
        if question
        else ["Is that so, {0}?", "I hear you, {0}.", "Hm. You may be right, {0}."]
    )
    own = [line for line in scene.lines if not _said_lately(scene, line)]
    if own and rng.random() < 0.7:
        return f"{rng.choice(plain).format(who)} {rng.choice(own)}" if rng.random() < 0.4 else rng.choice(own)
    return _fresh(scene, [line.format(who) for line in plain], rng)


def _fresh(scene: Scene, lines: Sequence[str], rng: random.Random) -> str:
    """One of the lines, one that was not said lately when there is one."""
    unsaid = [line for line in lines if not _said_lately(scene, line)]
    return rng.choice(unsaid or list(lines))


def _said_lately(scene: Scene, line: str) -> bool:
    """Whether the NPC said any of it: what it said comes back by the sentence."""
    return any(own and own in line for own in scene.own_lines)


def _first_person(persona: str) -> str:
    """The persona's first sentence, spoken by the NPC itself."""
    sentence = re.split(r"(?<=[.!?])\s", persona.strip(), maxsplit=1)[0]
    for pattern, word in (
        (r"\b[Yy]ou are\b", "I am"), (r"\b[Yy]ou're\b", "I'm"), (r"\b[Yy]ou have\b", "I have"),
        (r"\bYours?elf\b|\byourself\b", "myself"), (r"\bYour\b", "My"), (r"\byour\b", "my"), (r"\b[Yy]ou\b", "I"),
    ):  # fmt: skip
        sentence = re.sub(pattern, word, sentence)
    return sentence[:200] if re.search(r"\b(I|I'm|my|My)\b", sentence) else ""


def _sentence(text: str) -> str:
    text = _capital(text.strip())
    return text if text.endswith((".", "!", "?")) else f"{text}."


def _capital(text: str) -> str:
    return text[:1].upper() + text[1:]


def _bare(place: str) -> str:
    return place.lower().removeprefix("the ").strip()


def _join(names: Sequence[str]) -> str:
    shown = list(names[:4])
    if len(names) > 4:
        shown.append(f"{len(names) - 4} more")
    return shown[0] if len(shown) == 1 else f"{', '.join(shown[:-1])} and {shown[-1]}"
