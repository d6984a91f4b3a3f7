"""The public JSON contract as types: one set decodes requests, encodes answers and makes `/openapi.json`.

Field names are the wire's. Roblox's encoder writes every empty table as `[]` and leaves nil fields out, so every field
may be missing or null, every object field takes `[]` and every list field takes `{}` (`Nothing`).
"""
