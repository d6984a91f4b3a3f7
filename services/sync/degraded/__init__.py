"""Degraded speech: what an NPC says when no model answers, always marked so.

`voices` chooses: a cached reply, the NPC's own lines mixed anew (`markov`), a canned line.
"""
