"""State: what every world is like now, and what a tenant has said about its NPCs, places and players.

Owns:   world documents (positions, status, clusters, recent events), epochs, the roster (profiles,
locations,
        players).
Serves: StateService (sessions, Ingest, observations, earshot, NPC contexts, the informer, roster, erasure).
Calls:  cluster (Assign, before each revision that could change who hears whom).
Never:  knows sync, chat or a runtime; measures a distance to decide who hears whom.

Read `document.py` first: `prepare` and `commit` make one immutable revision out of the one before and an
input; `intake.py` runs them, one at a time per world, and tells everybody.
"""
