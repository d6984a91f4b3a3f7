"""The tavern's storyline: who goes where and says what, and when. Three minutes, then it begins again.

The first 45 seconds hold everything that matters: a cluster forms, a group chats, a named NPC is asked, two players
talk among themselves, somebody joins, somebody walks away before the reply, a scuffle, a new player.
A cue with several texts uses another one each time round.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final, Literal

Verb = Literal["walk", "say", "act", "hurt", "caption", "enter", "exit"]

LENGTH_S: Final = 180.0

MIRA, BRAM, PIP, ODETTE = "tavern-mira", "tavern-bram", "tavern-pip", "tavern-odette"
FENWICK, TANSY, TOCK, DUCHESS = "tavern-fenwick", "tavern-tansy", "tavern-tock", "tavern-duchess"
RAVI, JUNO, MILO, NIA, THEO = "7203441186", "7203441187", "5918820034", "8117264490", "6640092751"

# Where everybody is when the story begins, and where they go home to. Nia has not arrived yet.
HOMES: Final = {
    MIRA: "bar", BRAM: "kitchen", PIP: "stable", ODETTE: "gate", FENWICK: "stage", TANSY: "garden", TOCK: "hearth",
    DUCHESS: "pond", RAVI: "yard", JUNO: "well", MILO: "market", THEO: "oak",
}  # fmt: skip


@dataclass(frozen=True, slots=True)
class Cue:
    """One thing that happens `at` seconds into the story.

    walk: `to` is the place; say: `texts` and `answers` as in Utterance; act: `to` is the action; hurt: `amount`;
    enter: `to` is the place; exit.
    """

    at: float
    verb: Verb
    who: str = ""
    to: tuple[str, ...] = ()
    texts: tuple[str, ...] = ()
    answers: tuple[str, ...] | None = None
    amount: int = 0
    # Its texts belong, one to one, to those of the line before.
    follows: bool = False


NOBODY: Final = ()


def walk(at: float, who: str, *to: str) -> Cue:
    return Cue(at, "walk", who, to)


def ask(at: float, who: str, npc: str, *texts: str) -> Cue:
    """A player addresses one NPC by name."""
    return Cue(at, "say", who, texts=texts, answers=(npc,))


def wonder(at: float, who: str, *texts: str) -> Cue:
    """A player speaks to everybody."""
    return Cue(at, "say", who, texts=texts)


def chat(at: float, who: str, *texts: str) -> Cue:
    """A player speaks to another player: the NPCs should keep silent."""
    return Cue(at, "say", who, texts=texts, answers=NOBODY)


def reply(at: float, who: str, *texts: str) -> Cue:
    """A player answers the line before, as one player to another."""
    return Cue(at, "say", who, texts=texts, answers=NOBODY, follows=True)


def act(at: float, who: str, action: str) -> Cue:
    return Cue(at, "act", who, (action,))


def hurt(at: float, who: str, amount: int) -> Cue:
    return Cue(at, "hurt", who, amount=amount)


def caption(at: float, *texts: str) -> Cue:
    return Cue(at, "caption", texts=texts)


def enter(at: float, who: str, place: str) -> Cue:
    return Cue(at, "enter", who, (place,))


def leave(at: float, who: str) -> Cue:
    return Cue(at, "exit", who)


ARRIVAL: Final = (
    caption(
        0,
        "Evening at the Sleepy Badger. Two travellers come in out of the rain.",
        "Another evening, another pot of soup. The door of the Sleepy Badger opens.",
        "Rain on the shutters, a fire inside. The Sleepy Badger fills up again.",
    ),
    walk(0, RAVI, "bar"),
    walk(0, JUNO, "bar"),
    wonder(
        5, RAVI,
        "Hello! Do you have a table for two tired travellers?",
        "Good evening! Do you have any soup left for two hungry people?",
        "Hello! Which chair would you give to somebody who is cold?",
    ),
    walk(6, BRAM, "bar"),
    ask(
        10, JUNO, MIRA,
        "Mira, what is in the soup tonight?",
        "Mira, do you still have the room with the good window?",
        "Mira, why is the badger on your sign asleep?",
    ),
    chat(
        15, RAVI,
        "Juno, did you bring the map?",
        "Juno, have you got our lantern?",
        "Juno, do you want the bed by the window?",
    ),
    reply(
        17, JUNO,
        "Yes, Ravi, it is in my left boot.",
        "Ravi, it is in the bag with the apples.",
        "Only if you want the other one, Ravi.",
    ),
    walk(16, FENWICK, "bar"),
    ask(
        22, RAVI, FENWICK,
        "Fenwick, would you dance for us?",
        "Fenwick, can you wave with that hat?",
        "Fenwick, will you dance if we clap?",
    ),
)  # fmt: skip

SCUFFLE: Final = (
    walk(23, ODETTE, "yard"),
    walk(23, DUCHESS, "yard"),
    # She leaves for the yard before the answer is out.
    ask(
        26, JUNO, BRAM,
        "Bram, what is the secret of your stew?",
        "Bram, have you found Gertrude yet?",
        "Bram, what goes into the dumplings?",
    ),
    walk(26, JUNO, "yard"),
    caption(
        30,
        "In the yard the Duchess takes offence at the captain's boots.",
        "The Duchess has noticed one very muddy boot.",
        "Captain Odette reads the Duchess the rules of the yard. The Duchess disagrees.",
    ),
    act(30, ODETTE, "Combat"),
    act(30, DUCHESS, "Combat"),
    hurt(31, ODETTE, 14),
    ask(
        32, JUNO, ODETTE,
        "Odette, look out, she is right behind you!",
        "Odette, do you need any help?",
        "Captain, watch your boots!",
    ),
    hurt(33, DUCHESS, 12),
    hurt(34, ODETTE, 11),
    caption(
        36,
        "Honour is satisfied on both sides. Mostly on the Duchess's.",
        "A draw, says the captain. Honk, says the Duchess.",
    ),
    act(36, ODETTE, "Idle"),
    act(36, DUCHESS, "Idle"),
    walk(36, MILO, "bar"),
    ask(
        38, JUNO, DUCHESS,
        "Duchess, are you all right?",
        "Duchess, may I give you some bread?",
        "Duchess, who won?",
    ),
    caption(39, "Somebody new stands at the gate of the yard."),
    enter(39, NIA, "yard"),
    wonder(
        41, NIA,
        "Hi, I am new here! What is this place?",
        "Hello! Is it always this loud in the evening?",
        "Hi everyone! Where can I find something warm to drink?",
    ),
    walk(44, FENWICK, "stage"),
)  # fmt: skip

EVENING: Final = (
    walk(47, NIA, "bar"),
    hurt(48, ODETTE, -25),
    hurt(48, DUCHESS, -12),
    chat(
        52, NIA,
        "Milo, have you been here before?",
        "Milo, is that a real wizard hat?",
        "Milo, is the soup any good?",
    ),
    reply(
        54, MILO,
        "Nia, I come for the pies every week.",
        "It is, Nia, it was my uncle's.",
        "It is the best one there is, Nia.",
    ),
    walk(56, ODETTE, "well", "market", "yard", "gate"),
    act(56, ODETTE, "Patrolling"),
    walk(56, JUNO, "stable"),
    walk(57, THEO, "garden"),
    ask(
        61, JUNO, PIP,
        "Pip, which pony is the fastest?",
        "Pip, what is the best pebble you ever found?",
        "Pip, did the Duchess come by today?",
    ),
    walk(62, TOCK, "bar"),
    ask(
        67, MILO, TOCK,
        "Tock, how many barrels are in the cellar?",
        "Tock, are you ticking louder today?",
        "Tock, what is your favourite number?",
    ),
    ask(
        72, THEO, TANSY,
        "Granny Tansy, which leaf is good for sore feet?",
        "Granny Tansy, what are you knitting?",
        "Granny Tansy, does lavender like the rain?",
    ),
    wonder(
        78, NIA,
        "Does anybody know a story about this house?",
        "What is the oldest thing in this house?",
        "Who was the strangest guest you ever had?",
    ),
    ask(
        80, JUNO, PIP,
        "Pip, come with me, there is something shiny in the well!",
        "Pip, follow me, I want to make a wish!",
        "Pip, come along, I have lost my shoe in the well!",
    ),
    walk(83, JUNO, "well"),
    # An NPC that follows by itself comes anyway.
    walk(84, PIP, "well"),
    ask(
        90, RAVI, MIRA,
        "Mira, who taught you to run an inn?",
        "Mira, may we stay another night?",
        "Mira, which of the rooms is the quietest?",
    ),
    ask(
        93, JUNO, PIP,
        "Pip, how deep is the well?",
        "Pip, what did you wish for?",
        "Pip, are you afraid of the dark down there?",
    ),
    walk(97, THEO, "bar"),
    walk(97, TANSY, "bar"),
    wonder(
        108, THEO,
        "We brought honey cakes for everybody! Who wants the first one?",
        "It smells wonderful in here. What is for pudding?",
        "Good evening! What did we miss?",
    ),
    ask(
        114, RAVI, TANSY,
        "Thank you, Granny Tansy. What is in these cakes?",
        "Granny Tansy, may I carry your basket?",
        "Granny Tansy, who won the game of draughts?",
    ),
)  # fmt: skip

CLOSING: Final = (
    caption(119, "Two lamps are lit on the little stage.", "The curtain with a past opens again."),
    walk(119, NIA, "stage"),
    walk(119, MILO, "stage"),
    ask(
        125, NIA, FENWICK,
        "Fenwick, please sing the one about the crown!",
        "Fenwick, how did you lose to a goose?",
        "Fenwick, what rhymes with badger?",
    ),
    chat(
        129, MILO,
        "Nia, I know this one by heart.",
        "Nia, clap now, he likes that.",
        "Nia, he always forgets the third verse.",
    ),
    reply(
        131, NIA,
        "Shh, Milo, I want to hear it.",
        "Milo, you are standing on the curtain.",
        "Milo, it is lovely anyway.",
    ),
    walk(133, DUCHESS, "well"),
    ask(
        139, JUNO, DUCHESS,
        "Duchess, may I pass, please?",
        "Duchess, is this your well?",
        "Duchess, would you like a crust?",
    ),
    wonder(
        144, RAVI,
        "It is late. Does anybody know what the weather will do tomorrow?",
        "What a day. Is there anything left of the soup?",
        "Before I go up: who is cooking breakfast?",
    ),
    ask(148, JUNO, PIP, "Goodnight, Pip, see you tomorrow!", "Pip, thank you for the pebble. Goodnight!"),
    wonder(152, NIA, "I have to go. Goodbye, and thank you!", "That was lovely. Goodbye everybody!"),
    walk(154, NIA, "yard"),
    leave(160, NIA),
    caption(162, "The lamps go out one by one, and everybody goes home.", "Goodnight, says the house, and creaks."),
    *(walk(162, who, home) for who, home in HOMES.items()),
)  # fmt: skip

STORY: Final = tuple(sorted((*ARRIVAL, *SCUFFLE, *EVENING, *CLOSING), key=lambda cue: cue.at))
