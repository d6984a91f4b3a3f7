"""The shared kernel: what every room needs and no room owns.

Owns: the app (bind, start, close), settings, channels between rooms, ownership of worlds, errors, interceptors,
telemetry, the clock and the store helpers.
Serves: nothing.
Calls: nobody.
Never: imports a room.
"""
