"""Schedule: when what has changed is written. Pure; time is passed in.

`due` holds both schedules as data, `lanes` who is next, `urgency` what cannot wait and how much of it a world may have.
"""
