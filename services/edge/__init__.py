"""The edge: where HTTP becomes gRPC.

Owns: HTTP connections and held polls, admission, API keys, the Scope page.
Serves: HTTP/JSON (`/v1/...`), the existing game's five paths (`/letta/v1/...`), probes, metrics, contract, the page.
Calls: state, sync, chat, through their generated stubs, always with a deadline.
Never: decides anything about NPCs; keeps idempotency records; touches another room's store; logs bodies, names, ids
or keys.
"""
