"""Runtimes: what thinks for an NPC, behind one port.

`port` is the contract; `letta`, `openai` and `offline` implement it. Nothing here imports the rest of sync, and only
`letta` imports letta_client. A vendor's package is imported when its runtime is opened, not before.
"""
