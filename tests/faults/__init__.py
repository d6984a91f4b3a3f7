"""What Earshot promises when machines fail, tried on real processes (R1 to R12 of docs/operations.md).

`history.py` says what clients saw and whether it is possible; `game.py` plays and records; `proxy.py` and `network.py`
break the connections, `failing.py` the processes; `bed.py` is what they are tried on.
"""
