"""Turns: Converse, from the question to the last sentence.

`converse` is the call, `preparation` what comes before the model is asked, `exchange` the agent's side of the answer
and `hearing` the caller's; `flight` and `replays` keep one question from being asked twice.
"""
