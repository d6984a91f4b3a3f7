"""What the dashboards show. In a query `@` stands for the chosen jobs and instances."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

Query = tuple[str, str]  # PromQL, legend


@dataclass(frozen=True, slots=True)
class Panel:
    """unit: Grafana's name of it. budget: a line that must not be crossed. single: one figure, no curve."""

    title: str
    unit: str
    says: str
    queries: Sequence[Query]
    budget: float | None = None
    single: bool = False


@dataclass(frozen=True, slots=True)
class Board:
    """One dashboard."""

    uid: str
    title: str
    says: str
    panels: Sequence[Panel]


R = "[$__rate_interval]"


def rate(metric: str, legend: str = "", by: str = "", where: str = "") -> Query:
    """Events a second, by a label."""
    selector = "{" + ", ".join(filter(None, (where, "@"))) + "}"
    grouped = f" by ({by})" if by else ""
    return f"sum{grouped} (rate({metric}{selector}{R}))", legend or (f"{{{{{by}}}}}" if by else metric)


def quantile(share: float, metric: str, legend: str = "", by: str = "", where: str = "") -> Query:
    """A quantile of a histogram, by a label."""
    selector = "{" + ", ".join(filter(None, (where, "@"))) + "}"
    labels = ", ".join(filter(None, ("le", by)))
    shown = legend or (f"{{{{{by}}}}}" if by else f"p{share * 100:g}")
    return f"histogram_quantile({share}, sum by ({labels}) (rate({metric}_bucket{selector}{R})))", shown


def share(good: str, total: str, legend: str) -> Query:
    """Part of a whole. Both are selectors of counters with `@`."""
    return f"(sum (rate({good}{R})) or vector(0)) / sum (rate({total}{R}))", legend


def now(metric: str, legend: str, by: str = "", where: str = "") -> Query:
    """A gauge as it is."""
    selector = "{" + ", ".join(filter(None, (where, "@"))) + "}"
    return f"sum by ({by}) ({metric}{selector})" if by else f"sum ({metric}{selector})", legend


STAGE = "earshot_stage_duration_seconds"


def stages(*names: str) -> Panel:
    """p99 of stages."""
    return Panel(
        "Stages, p99",
        "s",
        "Where the time of a snapshot and of a turn goes; the budgets are in docs/slo.md",
        [quantile(0.99, STAGE, by="stage", where=f'stage=~"{"|".join(names)}"')],
    )


def room(name: str) -> tuple[Panel, ...]:
    """Rate, errors and duration of a room's RPCs."""
    where = f'room="{name}"'
    return (
        Panel("RPCs a second", "reqps", "Served RPCs by name", [rate("earshot_rpcs_total", by="rpc", where=where)]),
        Panel(
            "RPCs by status",
            "reqps",
            "Anything but OK is worth a look",
            [rate("earshot_rpcs_total", by="code", where=where)],
        ),
        Panel(
            "RPC duration, p99",
            "s",
            "By name; streams last as long as they are held",
            [quantile(0.99, "earshot_rpc_seconds", by="rpc", where=where)],
        ),
    )


def store(name: str) -> tuple[Panel, ...]:
    """A room's store."""
    where = f'room="{name}"'
    return (
        Panel(
            "Store commits, p99",
            "s",
            "One group commit, on the writer's thread",
            [quantile(0.99, "earshot_store_commit_seconds", "p99", where=where)],
            0.02,
        ),
        Panel(
            "Store writes a second",
            "wps",
            "Failed ones were refused to their callers or are tried again",
            [rate("earshot_store_writes_total", by="outcome", where=where)],
        ),
    )


PROMISED = (
    Panel(
        "Snapshots within 20 ms",
        "percentunit",
        "Promise: 99 %",
        [share(STAGE + '_bucket{stage="snapshot", le="0.02", @}', STAGE + '_count{stage="snapshot", @}', "in time")],
    ),
    Panel(
        "Snapshots answered",
        "percentunit",
        "Promise: 99.9 %",
        [share('earshot_snapshots_total{outcome!="failed", @}', "earshot_snapshots_total{@}", "answered")],
    ),
    Panel(
        "Model asked within 20 ms",
        "percentunit",
        "From the utterance; promise: 99 %",
        [
            share(
                STAGE + '_bucket{stage="utterance_to_model", le="0.02", @}',
                STAGE + '_count{stage="utterance_to_model", @}',
                "in time",
            )
        ],
    ),
    Panel(
        "Turns that did not fail",
        "percentunit",
        "Promise: 99 %",
        [share('earshot_turns_total{phase!~"failed|started", @}', 'earshot_turns_total{phase!="started", @}', "ended")],
    ),
    Panel(
        "Asked as of the revision spoken in",
        "percentunit",
        "Promise: 99.9 %",
        [
            share(
                'earshot_freshness_revisions_behind_bucket{le="0.0", @}',
                "earshot_freshness_revisions_behind_count{@}",
                "fresh",
            )
        ],
    ),
    Panel(
        "Events delivered in time",
        "percentunit",
        "Streams and sockets within 50 ms, long polls within 250 ms; promise: 99 %",
        [
            share(
                'earshot_events_lag_seconds_bucket{transport!="poll", le="0.05", @}',
                'earshot_events_lag_seconds_count{transport!="poll", @}',
                "streams",
            ),
            share(
                'earshot_events_lag_seconds_bucket{transport="poll", le="0.25", @}',
                'earshot_events_lag_seconds_count{transport="poll", @}',
                "polls",
            ),
        ],
    ),
)

LATENCY = Panel(
    "Snapshot, p50 and p99",
    "s",
    "Parsed to answered",
    [
        quantile(0.5, STAGE, "p50", where='stage="snapshot"'),
        quantile(0.99, STAGE, "p99", where='stage="snapshot"'),
    ],
    0.02,
)
ERRORS = Panel(
    "Answers of 500 and above",
    "percentunit",
    "Of all requests",
    [
        share('earshot_http_requests_total{status=~"5..", @}', "earshot_http_requests_total{@}", "5xx"),
        share('earshot_http_requests_total{status=~"4..", @}', "earshot_http_requests_total{@}", "4xx"),
    ],
)
LOOP = Panel(
    "Event loop late, p99",
    "s",
    "By process; above 50 ms the edge refuses requests",
    [quantile(0.99, "earshot_loop_lag_seconds", by="instance")],
    0.05,
)
TASKS = Panel(
    "Tasks of the loop",
    "short",
    "By process; grows only with players and turns",
    [("sum by (instance) (earshot_loop_tasks{@})", "{{instance}}")],
)
CPU = Panel(
    "CPU",
    "percentunit",
    "Of one core, by process",
    [(f"sum by (instance) (rate(process_cpu_seconds_total{{@}}{R}))", "{{instance}}")],
)
MEMORY = Panel(
    "Memory",
    "bytes",
    "Resident, by process",
    [("sum by (instance) (process_resident_memory_bytes{@})", "{{instance}}")],
)
OVER = Panel(
    "Stages over budget a second",
    "ops",
    "Each counts once when it takes longer than its budget",
    [rate("earshot_stage_budget_exceeded_total", by="stage")],
)
WORLDS = Panel(
    "Worlds, entities, clusters",
    "short",
    "In memory",
    [now("earshot_worlds", "worlds"), now("earshot_entities", "entities"), now("earshot_clusters", "clusters")],
)
SNAPSHOTS = Panel("Snapshots a second", "ops", "By outcome", [rate("earshot_snapshots_total", by="outcome")])
TURNS = Panel(
    "Turns a second",
    "ops",
    "started = the floor was granted; the others: how it ended",
    [rate("earshot_turns_total", by="phase")],
)
FIRST = Panel(
    "First sentence and end, p95",
    "s",
    "From the floor being granted",
    [quantile(0.95, "earshot_turn_seconds", by="until")],
    2.0,
)

BOARDS = (
    Board(
        "earshot-overview",
        "Overview",
        "Is everything well: promises, latency, errors, saturation",
        (
            *PROMISED,
            LATENCY,
            ERRORS,
            SNAPSHOTS,
            TURNS,
            FIRST,
            OVER,
            LOOP,
            TASKS,
            CPU,
            MEMORY,
            WORLDS,
            Panel(
                "Version",
                "short",
                "Processes by version",
                [("count by (version) (earshot_build_info{@})", "{{version}}")],
                single=True,
            ),
        ),
    ),
    Board(
        "earshot-conversations",
        "Conversations",
        "Who speaks, how soon, why not",
        (
            Panel(
                "Utterances a second", "ops", "By what became of them", [rate("earshot_utterances_total", by="outcome")]
            ),
            TURNS,
            Panel(
                "Why turns ended, a second",
                "ops",
                "Reasons of decisions and failures",
                [rate("earshot_turns_total", by="reason")],
            ),
            FIRST,
            Panel(
                "Wait for a worker, p95",
                "s",
                "Urgent turns within 0.5 s, others within 2 s",
                [quantile(0.95, "earshot_queue_wait_seconds", by="queue")],
                0.5,
            ),
            Panel("Turns waiting", "short", "By queue", [now("earshot_queue_depth", "{{queue}}", by="queue")]),
            Panel(
                "Utterance to model asked, p99",
                "s",
                "Without the model itself",
                [quantile(0.99, STAGE, "p99", where='stage="utterance_to_model"')],
                0.02,
            ),
            Panel(
                "Decision, p99",
                "s",
                "Who speaks, if anyone",
                [quantile(0.99, STAGE, "p99", where='stage="decision"')],
                0.002,
            ),
            Panel("Log entries a second", "ops", "By type", [rate("earshot_events_total", by="type")]),
            Panel(
                "Entries before their revision",
                "short",
                "Must stay 0",
                [("sum (increase(earshot_notices_early_total{@}[$__range]))", "entries")],
                1,
                single=True,
            ),
        ),
    ),
    Board(
        "earshot-sync",
        "Sync and Letta",
        "Is what agents know fresh, and how do the runtimes do",
        (
            Panel(
                "Age of what an NPC knows, p95",
                "s",
                "When it is asked",
                [quantile(0.95, "earshot_freshness_seconds", "p95")],
            ),
            Panel(
                "Revisions behind, p99",
                "short",
                "When it is asked; strict freshness keeps it at 0",
                [quantile(0.99, "earshot_freshness_revisions_behind", "p99")],
                1,
            ),
            Panel("NPCs that wait", "short", "By lane", [now("earshot_sync_pending", "{{lane}}", by="lane")]),
            Panel(
                "First change to confirmed write, p95",
                "s",
                "By lane; the schedule is lazy on purpose",
                [quantile(0.95, "earshot_sync_lag_seconds", by="lane")],
            ),
            Panel(
                "Block writes a second",
                "wps",
                "By lane and outcome",
                [
                    (
                        "sum by (lane, outcome) (rate(earshot_block_writes_total{@}[$__rate_interval]))",
                        "{{lane}} {{outcome}}",
                    )
                ],
            ),
            Panel(
                "Postponed writes a second",
                "wps",
                "Urgent ones that waited for their world's budget",
                [rate("earshot_sync_postponed_total", "postponed")],
            ),
            Panel(
                "Runtime calls a second",
                "reqps",
                "By runtime and outcome",
                [
                    (
                        "sum by (runtime, outcome) (rate(earshot_runtime_calls_total{@}[$__rate_interval]))",
                        "{{runtime}} {{outcome}}",
                    )
                ],
            ),
            Panel(
                "Runtime calls, p95", "s", "By operation", [quantile(0.95, "earshot_runtime_seconds", by="operation")]
            ),
            Panel(
                "In flight to runtimes",
                "short",
                "By runtime; and 1 while its turns go one by one, because parallel ones are slower",
                [
                    now("earshot_runtime_in_flight", "{{runtime}}", by="runtime"),
                    ("max by (runtime) (earshot_turns_serial{@})", "{{runtime}} one by one"),
                ],
            ),
            Panel(
                "Breakers",
                "short",
                "1 = open, 0.5 = probing, 0 = closed",
                [("max by (runtime) (earshot_runtime_breaker_open{@})", "{{runtime}}")],
                1,
            ),
            Panel(
                "Tokens a second",
                "short",
                "By runtime and kind",
                [
                    (
                        "sum by (runtime, kind) (rate(earshot_runtime_tokens_total{@}[$__rate_interval]))",
                        "{{runtime}} {{kind}}",
                    )
                ],
            ),
            Panel(
                "Cost an hour",
                "currencyUSD",
                "At the prices of EARSHOT_PROMPT_PRICE and EARSHOT_COMPLETION_PRICE",
                [
                    (
                        "sum by (runtime) (rate(earshot_runtime_cost_dollars_total{@}[$__rate_interval])) * 3600",
                        "{{runtime}}",
                    )
                ],
            ),
            Panel("Agents", "short", "Embodied now", [now("earshot_agents", "agents")]),
        ),
    ),
    Board(
        "earshot-recall",
        "Recall, replies and budgets",
        "What NPCs are reminded of, who answers when the model does not, and what it costs whom",
        (
            Panel(
                "Recall for a turn, p99",
                "s",
                "The cue's vector apart",
                [quantile(0.99, "earshot_recall_seconds", "p99")],
            ),
            Panel(
                "Lines that wait for a vector",
                "short",
                "In the background",
                [now("earshot_embed_queue_depth", "lines")],
            ),
            Panel("Lines embedded a second", "ops", "By outcome", [rate("earshot_embedded_total", by="outcome")]),
            Panel(
                "Replies a second",
                "ops",
                "By the model, or by what stands in for it",
                [rate("earshot_replies_total", by="mode")],
            ),
            Panel(
                "Cache of frequent replies, a second",
                "ops",
                "fresh and stale answer at once",
                [rate("earshot_cache_hits_total", by="kind")],
            ),
            Panel("No Markov line, a second", "ops", "By reason", [rate("earshot_markov_declined_total", by="reason")]),
            Panel(
                "Tokens a second by tenant",
                "short",
                "Of all providers",
                [rate("earshot_tenant_tokens_total", by="tenant")],
            ),
            Panel(
                "Cost an hour by tenant",
                "currencyUSD",
                "At the set prices",
                [
                    (
                        "sum by (tenant) (rate(earshot_tenant_cost_dollars_total{@}[$__rate_interval])) * 3600",
                        "{{tenant}}",
                    )
                ],
            ),
            Panel(
                "Budget of the day used",
                "percentunit",
                "By tenant, where a budget is set",
                [("max by (tenant) (earshot_budget_used_ratio{@}) or vector(0)", "{{tenant}}")],
                1,
            ),
            Panel(
                "Calls refused for a spent budget, a second",
                "ops",
                "By tenant",
                [
                    (
                        "sum by (tenant) (rate(earshot_budget_refused_total{@}[$__rate_interval])) or vector(0)",
                        "{{tenant}}",
                    )
                ],
            ),
        ),
    ),
    Board(
        "earshot-edge",
        "Edge and game servers",
        "Connections, admission, and what game servers measure",
        (
            Panel("Requests a second", "reqps", "By route", [rate("earshot_http_requests_total", by="route")]),
            Panel("Answers a second", "reqps", "By status", [rate("earshot_http_requests_total", by="status")]),
            Panel(
                "Requests, p99",
                "s",
                "By route; waiting on purpose counts",
                [quantile(0.99, "earshot_http_seconds", by="route")],
            ),
            ERRORS,
            Panel(
                "Open connections",
                "short",
                "Polls, streams, sockets",
                [now("earshot_connections", "{{transport}}", by="transport")],
            ),
            Panel(
                "Connections ended a second",
                "ops",
                "By transport and reason; drops and fallbacks show here",
                [
                    (
                        "sum by (transport, reason) (rate(earshot_connections_ended_total{@}[$__rate_interval]))",
                        "{{transport}} {{reason}}",
                    )
                ],
            ),
            Panel(
                "Fallbacks to polling, a second",
                "ops",
                "Polls that took the place of a lost stream or socket",
                [rate("earshot_fallbacks_total", by="transport")],
            ),
            Panel(
                "WebSocket round trip",
                "s",
                "Ping to pong",
                [
                    quantile(0.5, "earshot_socket_round_trip_seconds"),
                    quantile(0.99, "earshot_socket_round_trip_seconds"),
                ],
            ),
            Panel(
                "Event lag, p99",
                "s",
                "Appended to written",
                [quantile(0.99, "earshot_events_lag_seconds", by="transport")],
                0.25,
            ),
            Panel("Requests in flight", "short", "Held polls apart", [now("earshot_requests_in_flight", "in flight")]),
            Panel(
                "Refused before any work, a second",
                "reqps",
                "By gate",
                [rate("earshot_admission_refused_total", by="gate")],
            ),
            Panel(
                "A sync as game servers see it, p95",
                "s",
                "Round trip over the Internet, told by the SDK",
                [quantile(0.95, "earshot_sdk_round_trip_seconds", "p95")],
            ),
            Panel(
                "What game servers count, a second",
                "ops",
                "Requests, failures, throttled, expired",
                [rate("earshot_sdk_events_total", by="kind")],
            ),
            stages("parse", "snapshot"),
        ),
    ),
    Board(
        "earshot-state",
        "Room: state",
        "World documents",
        (
            *room("state"),
            SNAPSHOTS,
            stages("state", "commit", "snapshot"),
            *store("state"),
            WORLDS,
            Panel(
                "Transitions a second", "ops", "Of clusters, by type", [rate("earshot_transitions_total", by="type")]
            ),
            Panel(
                "Cluster members without a position",
                "percentunit",
                "Known by links alone",
                [("avg (earshot_members_unplaced_ratio{@})", "share")],
            ),
            Panel(
                "The game's groups against clusters, pairs a second",
                "ops",
                "Where the game sends groups of its own",
                [rate("earshot_game_pairs_total", by="verdict")],
            ),
        ),
    ),
    Board(
        "earshot-cluster",
        "Room: cluster",
        "Who is within earshot",
        (
            *room("cluster"),
            Panel(
                "Assign, p99",
                "s",
                "From state, the way included",
                [quantile(0.99, STAGE, "p99", where='stage="cluster"')],
                0.006,
            ),
            CPU,
            MEMORY,
        ),
    ),
    Board(
        "earshot-room-sync",
        "Room: sync",
        "The door to runtimes",
        (
            *room("sync"),
            stages("read", "write", "model"),
            *store("sync"),
            LOOP,
            CPU,
            MEMORY,
        ),
    ),
    Board(
        "earshot-chat",
        "Room: chat",
        "The log and the floor",
        (
            *room("chat"),
            stages("decision", "utterance_to_model"),
            *store("chat"),
            LOOP,
            CPU,
            MEMORY,
        ),
    ),
)
