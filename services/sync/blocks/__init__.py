"""Blocks: what an agent should hold at a revision, as text. Pure.

`desired` gathers them and takes their digests; `situation` is the world-owned one, `memory`, `human`, `notes` and
`persona` the others; `page` fits lines into a block's limit.
"""
