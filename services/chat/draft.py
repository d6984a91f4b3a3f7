"""The next state of a world while one input is reduced: copies on first sight, so the state before stays as it was."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from msgspec.structs import replace

from services.chat import effects, events, outside
from services.chat.conversation import SOLO, Conversation, Session, Turn, Utterance, World
from services.chat.rules import Rules


class Draft:
    """Mutable only inside one `reduce`. at: world time of the input, milliseconds."""

    def __init__(self, world: World, at_ms: int) -> None:
        self.at = at_ms
        self.rules = world.rules
        self.digest = world.digest
        self.revision = world.revision
        self.epoch = world.epoch
        self.closed = world.closed
        self.legacy = world.legacy
        self.next_seq = world.next_seq
        self.conversations = dict(world.conversations)
        self.open = dict(world.open)
        self.timers = dict(world.timers)
        self.wishes = dict(world.wishes)
        self.decided_ms = dict(world.decided_ms)
        self.spoke_ms = dict(world.spoke_ms)
        self.recent = dict(world.recent)
        self.sessions = dict(world.sessions)
        self.heard = dict(world.heard)
        self.generations = dict(world.generations)
        self.spent = dict(world.spent)
        self.places = world.places
        self.events: list[events.Event] = []
        self.effects: list[effects.Effect] = []

    def finish(self) -> World:
        """The state after the input."""
        return World(
            rules=self.rules,
            digest=self.digest,
            revision=self.revision,
            epoch=self.epoch,
            closed=self.closed,
            legacy=self.legacy,
            next_seq=self.next_seq,
            conversations=self.conversations,
            open=self.open,
            timers=self.timers,
            wishes=self.wishes,
            decided_ms=self.decided_ms,
            spoke_ms=self.spoke_ms,
            recent=self.recent,
            sessions=self.sessions,
            heard=self.heard,
            generations=self.generations,
            spent=self.spent,
            places=self.places,
        )

    def law(self, conversation: Conversation) -> Rules:
        """The rules that hold where a conversation is."""
        return self.places.get(conversation.place, self.rules)

    def apart(self, *players: str) -> bool:
        """Whether what is due to these may not enter the game: one of them is in a second place to talk."""
        return not self.rules.outside_in_game and any(map(outside.outside, players))

    def emit(self, conversation_id: str, body: events.Body, revision: int = 0) -> events.Event:
        """Append to the log, at the known revision unless an earlier one is meant."""
        event = events.Event(self.next_seq, self.at, revision or self.revision, conversation_id, body)
        self.next_seq += 1
        self.events.append(event)
        return event

    def do(self, effect: effects.Effect) -> None:
        """Have something done once this input is durable."""
        self.effects.append(effect)

    def arm(self, timer: str, after_ms: int) -> None:
        """Set a timer, replacing one of that name."""
        self.timers[timer] = self.at + after_ms

    def disarm(self, timer: str) -> None:
        """Drop a timer if it is set."""
        self.timers.pop(timer, None)

    def change(self, conversation_id: str, **fields: Any) -> Conversation:
        """Replace fields of a conversation."""
        conversation = replace(self.conversations[conversation_id], **fields)
        self.conversations[conversation_id] = conversation
        return conversation

    def change_turn(self, conversation_id: str, **fields: Any) -> Turn:
        """Replace fields of the turn that has the floor."""
        floor = self.conversations[conversation_id].floor
        assert floor is not None, "the caller has just looked at the floor"
        turn = replace(floor, **fields)
        self.change(conversation_id, floor=turn)
        return turn

    def change_utterance(self, utterance_id: str, **fields: Any) -> None:
        """Replace fields of an utterance that is still open; nothing otherwise."""
        utterance = self.open.get(utterance_id)
        if utterance is not None:
            self.open[utterance_id] = replace(utterance, **fields)

    def home(self, entity_id: str) -> Conversation | None:
        """The conversation of the cluster in which someone is."""
        for conversation in self.conversations.values():
            if entity_id in conversation.members and not conversation.id.startswith(SOLO):
                return conversation
        return None

    def floors(self) -> Iterator[tuple[str, Turn]]:
        """Turns that have the floor, by conversation."""
        for conversation in self.conversations.values():
            if conversation.floor is not None:
                yield conversation.id, conversation.floor

    def turn(self, turn_id: str) -> tuple[str, Turn] | None:
        """The conversation and turn of that id, if it still has the floor: everything else is stale."""
        return next(((where, turn) for where, turn in self.floors() if turn.id == turn_id), None)

    def utterances(self, conversation_id: str) -> list[Utterance]:
        """Open utterances of a conversation, oldest first."""
        return [utterance for utterance in self.open.values() if utterance.conversation_id == conversation_id]

    def session(self, player_id: str) -> int:
        """Number of the player's session; begins one when there is none."""
        session = self.sessions.get(player_id)
        if session is None:
            session = Session(number=self.next_seq, last_ms=self.at)
            self.sessions[player_id] = session
        return session.number
