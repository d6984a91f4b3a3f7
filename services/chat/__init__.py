"""Chat: who speaks, when, and when nobody does; the only client event log of a world.

Owns:   conversations, the floor, turns, the one event log per world, what was said, erasure jobs.
Serves: ChatService (Say, Decide, ListEvents, WatchEvents, GetConversation, ListConversations, ExplainTurn,
        ErasePlayer, GetErasure).
Calls:  state (who is within earshot, at which revision) and sync (Converse: one turn).
Never:  talks to a runtime, measures a distance, lets a client see what is not durably appended.

Read `reducer.py` first: `reduce(world, input) -> (world, events, effects)` is the room's whole judgement; `actor.py`
runs it, one world at a time, on a durable input log; recovery and replay are that same code.
"""
