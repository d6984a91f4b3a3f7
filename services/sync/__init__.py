"""Sync: keeps agents fresh, and is the only door to a runtime.

Owns:   what each agent was last told, pending work, the mapping (world, npc) -> agent, notes, turns in flight.
Serves: SyncService (Refresh, Converse, Complete, GetSyncStatus, ErasePlayer).
Calls:  state (what an NPC knows), runtimes (letta, openai, offline).
Never:  decides who speaks; keeps history or message queues; answers about an older world than it was asked about.
"""
