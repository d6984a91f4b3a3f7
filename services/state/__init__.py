"""State: what every world is like now, and what a tenant has said about its NPCs, places and players.

Owns:   world documents (positions, status, clusters, recent events), epochs, the roster (profiles,
locations, players). Serves: StateService. Calls:  cluster. Never:  knows sync, chat or a runtime; measures
a distance to decide who hears whom.
"""
