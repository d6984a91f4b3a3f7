"""Earshot's rooms. Each room's `__init__` says what it owns, serves, calls and never does; `server.py` wires it.

Rooms know each other only through the contracts in `protos/`; `services.cli` is the one place that composes them.
"""
