"""Routing: which runtime is asked, how often, how long and at what price.

An `endpoint` is a runtime as it is really called, behind breaker, gate and quota; `router` chooses among those of a
`chain`; `provider`s are the configured models, `metering` counts what they cost.
"""
