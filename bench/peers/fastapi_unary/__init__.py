"""FastAPI with pydantic models before two gRPC services, nested messages, one unary call per hop: edge, state, cluster.

What a competent engineer writes first. The same job: every entity with all its content, movement below 0.1 studs is no
change, a revision, clusters with hysteresis and members' positions, the world's document on disk (SQLite, WAL, one
writer, group commit) before the answer, request metrics. It does less than Earshot: no lineages, no transitions, no
change feed, no bounds. Runs in an environment of its own (bench/peers/requirements.lock).
"""
