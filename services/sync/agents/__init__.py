"""Agents: the observed side, one (world, npc) each.

`record` is what an agent was confirmed to hold, `embodiment` the one agent in one runtime (one write per block and one
message in flight), `hold` the right to ask it, `entry` what waits for an NPC, `embodiments` all of them; `copies` are
their blocks in backups.
"""
