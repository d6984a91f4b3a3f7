"""Measurements beside honest peers. Run from a checkout by `earshot bench NAME`; not part of the package.

Owns: what is measured and how, the peers, the goals.
Serves: one object per bench: {"bench", "machine", "results"}.
Calls: Earshot as its users do (processes and HTTP), and the nouns that a bench times.
Never: is imported by a room; decides for Earshot; leaves a process or a data directory behind.
"""
