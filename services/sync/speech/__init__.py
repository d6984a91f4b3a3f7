"""Speech: what a turn says to a model and what is made of its answer, as values. Pure.

`prompt` and `memories` go there, `reply`, `sentences` and `tools` read what comes back; `turn` has the words for both.
"""
