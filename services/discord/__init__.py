"""Discord: a second edge. A bound channel or thread is a conversation, its people are players, NPCs speak in it.

Owns:   bindings of channels, which message is which utterance, deletions that are still to be passed on.
Serves: slash commands and messages of Discord, over its gateway; no RPC.
Calls:  chat (Say, ListEvents, Retract, ExplainTurn) and state (who is linked to whom, profiles).
Never:  decides who speaks; fetches an attachment; pings anybody; shows Discord's text to the game unasked.

Needs the extra `earshot[discord]` and EARSHOT_DISCORD_TOKEN.
"""
