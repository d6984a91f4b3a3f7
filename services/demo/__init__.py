"""Demo: worlds that drive a running Earshot as a game would, and tell a person what happens.

Owns: scenarios (the tavern and the crowds), the driver that plays one, the narration of it, `earshot import-roster`.
Serves: `earshot demo`, `earshot import-roster`; the scenarios also feed tests and benches.
Calls: the public HTTP API, as any client does.
Never: imports a room or the shared kernel; knows anything that a game could not know.
"""
