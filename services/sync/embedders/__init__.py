"""Embedders: an OpenAI-compatible endpoint, a model directory of one's own, or none. Adapters of one port."""
