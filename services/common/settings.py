"""Settings: `EARSHOT_*` environment variables with defaults, listed by `earshot settings`.

One class, grouped by room. A default that the owner's documents name carries its requirement id.
"""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from pydantic import AliasChoices, BaseModel, ConfigDict, Field
from pydantic_settings import BaseSettings, SettingsConfigDict

ROOMS = ("edge", "state", "cluster", "sync", "chat")
# Rooms that run only where they are configured.
OPTIONAL = ("discord",)
# Those that others call over gRPC.
SERVED = ("state", "cluster", "sync", "chat")
Room = Literal["edge", "state", "cluster", "sync", "chat"]


class PlaceSettings(BaseModel):
    """What may differ from place to place; what is not given is as everywhere."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    tau: float | None = Field(None, ge=0, le=1)
    tau_silence: float | None = Field(None, ge=0, le=1)
    awkward_silence_s: float | None = Field(None, gt=0)
    npc_turns_soft: int | None = Field(None, ge=0)
    npc_turns_hard: int | None = Field(None, ge=0)
    cooldown_npc_s: float | None = Field(None, ge=0)
    cooldown_greeting_s: float | None = Field(None, ge=0)
    greetings: bool | None = None
    npc_to_npc: bool | None = None


class Settings(BaseSettings):
    """Everything that can be set. Times are in the unit that the name ends with; `_s` seconds, `_ms` milliseconds."""

    model_config = SettingsConfigDict(env_prefix="EARSHOT_", extra="ignore", populate_by_name=True, frozen=True)

    # -- process ---------------------------------------------------------------------------------------------------
    listen: str = Field("127.0.0.1:8080", description="Address of the HTTP edge.")
    data: str = Field(".earshot", description="Data directory, or :memory: to keep nothing.")
    store: str = Field(
        "",
        validation_alias=AliasChoices("EARSHOT_STORE", "REDIS_URL"),
        description="redis://host:port/n: what must last is kept there (Redis 7.0 or newer, Valkey), and any number of "
        "replicas share the work; empty = SQLite in the data directory, one process a room.",
    )
    lease_s: float = Field(
        5.0, gt=0, description="A replica that is not heard of for so long loses its worlds to the others."
    )
    advertise: str = Field(
        "", description="Host under which other processes reach this one's rooms; empty = that of each room's address."
    )
    state_addr: str = Field("127.0.0.1:50051", description="Where StateService listens, and is called.")
    cluster_addr: str = Field("127.0.0.1:50052", description="Where ClusterService listens, and is called.")
    sync_addr: str = Field("127.0.0.1:50053", description="Where SyncService listens, and is called.")
    chat_addr: str = Field("127.0.0.1:50054", description="Where ChatService listens, and is called.")
    tls: str = Field(
        "", description="Directory with ca.pem, cert.pem, key.pem: mutual TLS between rooms; needed beyond loopback."
    )
    tls_callers: str = Field("", description="More certificate names that may call a room: room=name, comma separated.")
    log_level: Literal["debug", "info", "warning", "error"] = Field("info", description="Least severe record logged.")
    log_format: Literal["console", "json"] = Field("console", description="For people, or one JSON object a line.")
    shutdown_s: float = Field(10.0, description="How long running calls may finish after a stop.")
    telemetry: bool = Field(True, description="Measure and trace; false leaves both out.")
    metrics_listen: str = Field(
        "", description="Address of Prometheus metrics of a process without the edge; empty = none."
    )
    otlp_endpoint: str = Field("", description="OTLP gRPC endpoint that traces are sent to; empty = kept here only.")
    trace_sample: float = Field(
        0.01, ge=0, le=1, description="Share of requests traced (parent-based), and at least one a second; 0 = none."
    )

    # -- edge ------------------------------------------------------------------------------------------------------
    body_limit: int = Field(512 * 1024, description="Largest decoded request body, bytes.")
    body_limit_compressed: int = Field(64 * 1024, description="Largest gzip body as sent, bytes.")
    snapshot_deadline_s: float = Field(1.0, description="Deadline of a snapshot.")
    events_hold_max_s: float = Field(25.0, description="Longest hold of a long poll.")
    messages_wait_s: float = Field(
        25.0, description="Longest wait of POST /v1/messages and of the existing game's chat."
    )
    header_timeout_s: float = Field(5.0, description="A connection that sends no complete header by then is closed.")
    body_timeout_s: float = Field(10.0, description="A body that is not complete by then is refused 408.")
    trusted_proxies: str = Field(
        "", description="Proxies whose X-Forwarded-For counts: addresses or networks, comma separated."
    )
    connections_max: int = Field(25_000, ge=1, description="Connections at once; one more is refused 429.")
    in_flight_max: int = Field(128, ge=1, description="Requests worked on at once, held polls apart; 429 above.")
    held_max: int = Field(20_000, ge=1, description="Polls, turns and sockets waited for at once; 503 above.")
    lag_max_s: float = Field(
        0.05, gt=0, description="While the loop is later than this, fewer requests are worked on at once; 429 above."
    )
    session_requests_per_minute: float = Field(500.0, gt=0, description="Of one session; the platform allows 500.")
    session_burst: float = Field(60.0, ge=1, description="Requests that a session may make at once.")
    tenant_requests_per_s: float = Field(1000.0, gt=0, description="Of all of a tenant's keys and sessions.")
    tenant_burst: float = Field(2000.0, ge=1, description="Requests that a tenant may make at once.")
    wrong_keys_per_minute: float = Field(60.0, gt=0, description="Of one address; 429 instead of 401 above.")

    # -- state (A) -------------------------------------------------------------------------------------------------
    movement_threshold: float = Field(0.1, description="Studs; less is not a change (A2).")
    stale_after_s: float = Field(
        60.0, description="An entry whose lastSeen is older than the snapshot by this is gone."
    )
    world_expiry_s: float = Field(900.0, description="A world without snapshots is closed after this.")
    worlds_max: int = Field(10_000, description="Worlds in memory; one more is refused 429.")
    entities_max: int = Field(500, description="Entities per snapshot and per world.")
    events_kept: int = Field(64, description="Recent events per world.")
    link_ttl_s: float = Field(75.0, description="Co-presence reported without positions (existing game).")
    combat_linger_s: float = Field(10.0, description="Combat lasts this long after its last sign.")
    expected_status_s: float = Field(10.0, description="Expected status of an action reverts after this (C9).")

    # -- cluster (B) -----------------------------------------------------------------------------------------------
    join_studs: float = Field(10.0, description="Studs within which entities come within earshot (B1).")
    leave_studs: float = Field(12.0, description="Studs beyond which those who were in earshot leave it.")
    vertical_weight: float = Field(1.0, description="Multiplies vertical distance.")
    distances: str = Field(
        "",
        description="Other distances in worlds whose names begin so: begin=join/leave[/vertical weight], comma "
        "separated; the longest beginning counts. The existing game's begin with place:<place id>.",
    )
    revival_s: float = Field(30.0, description="A dissolved lineage revives within this when two members reunite.")

    # -- sync (C) --------------------------------------------------------------------------------------------------
    schedule: Literal["lazy", "documented"] = Field(
        "lazy", description="When blocks are written: before turns, or debounced and in batches (C2, C3)."
    )
    freshness: Literal["strict", "relaxed"] = Field(
        "strict", description="strict: never an answer about an older world; relaxed: at most fresh_s old (C1)."
    )
    fresh_s: float = Field(15.0, description="relaxed: oldest status at a decision (C1).")
    fresh_combat_s: float = Field(1.0, description="relaxed: the same in combat (C1).")
    blocks: Literal["situation", "split"] = Field(
        "situation", description="One world-owned block, or split: status and group_members."
    )
    urgent_writes_per_s: float = Field(
        8.0,
        gt=0,
        description="lazy: combat writes of one world beyond a short burst; the gravest news first (C4).",
    )
    urgent_burst: float = Field(
        14.0, ge=5, description="lazy: combat writes at once of a world that was quiet; four of them for graver news."
    )
    urgent_wait_max_s: float = Field(
        15.0, gt=0, description="lazy: the longest that a combat write waits for that budget (C4)."
    )
    drift_every_s: float = Field(
        60.0, ge=0.1, description="Seconds between two agents whose blocks are read back and compared."
    )
    dirty_heard_max_s: float = Field(300.0, description="lazy: a heard NPC is written once when dirty this long.")
    turn_deadline_s: float = Field(20.0, description="Deadline of one turn, queue to last sentence.")
    runtime_concurrency: int = Field(
        8, description="Requests in flight to one runtime: above 8 a Letta server only queues."
    )
    history_tokens: int = Field(
        1500,
        ge=200,
        description="Budget of what was said, of a turn: latest lines, recalled ones, summary.",
    )
    embed_base_url: str = Field(
        "", description="OpenAI-compatible endpoint of /embeddings for recall; empty = none (words and recency only)."
    )
    embed_api_key: str = Field("", description="Key of the embeddings endpoint; empty = that of openai_api_key.")
    embed_model: str = Field("text-embedding-3-small", description="Model at the embeddings endpoint.")
    embed_model_dir: str = Field(
        "", description="Directory with model.onnx and tokenizer.json (extra earshot[onnx]); instead of an endpoint."
    )
    memory_scope: Literal["session", "cross_session"] = Field(
        "session", description="How long NPCs may remember players; cross_session has an age rule on the platform."
    )
    block_limit: int = Field(4000, description="Characters of one block.")

    # -- runtimes --------------------------------------------------------------------------------------------------
    runtimes: str = Field(
        "",
        description="Chain of runtimes, comma separated: letta, openai, openai:NAME, cached, markov, canned, offline; "
        "empty = letta and openai when set, then cached, markov, offline.",
    )
    providers: str = Field(
        "", description="OpenAI-compatible providers and budgets: a TOML or JSON file, or JSON (docs/runtimes.md)."
    )
    llm_provider: str = Field(
        "",
        validation_alias=AliasChoices("EARSHOT_LLM_PROVIDER", "LLM_PROVIDER"),
        description="First of the chain when EARSHOT_RUNTIMES is empty: openai, letta or offline.",
    )
    first_sentence_s: float = Field(
        2.0, gt=0, description="First words are wanted within this; then the next model is asked (G7)."
    )
    patience_s: float = Field(
        8.0, gt=0, description="First words are waited for at most this long when only a degraded reply is left."
    )
    cache_ttl_s: float = Field(
        300.0, ge=0, description="Replies of classes that a profile marks cacheable live so long."
    )
    daily_tokens: int = Field(0, ge=0, description="Tokens of one tenant per UTC day, then degraded; 0 = no limit.")
    daily_usd: float = Field(0.0, ge=0, description="Estimated dollars of one tenant per UTC day; 0 = no limit.")
    letta_base_url: str = Field(
        "",
        validation_alias=AliasChoices("EARSHOT_LETTA_BASE_URL", "LETTA_BASE_URL"),
        description="Letta server with protocol and port; chooses the runtime letta (F2).",
    )
    letta_api_key: str = Field(
        "",
        validation_alias=AliasChoices("EARSHOT_LETTA_API_KEY", "LETTA_API_KEY"),
        description="Key of the Letta server.",
    )
    letta_model: str = Field("openai/gpt-4o-mini", description="Model handle of new agents.")
    letta_embedding: str = Field("openai/text-embedding-3-small", description="Embedding handle of new agents.")
    openai_base_url: str = Field(
        "", description="Any OpenAI-compatible endpoint, for example http://127.0.0.1:11434/v1."
    )
    openai_api_key: str = Field(
        "",
        validation_alias=AliasChoices("EARSHOT_OPENAI_API_KEY", "OPENAI_API_KEY"),
        description="Key of the OpenAI-compatible endpoint.",
    )
    openai_model: str = Field(
        "gpt-4o-mini",
        validation_alias=AliasChoices("EARSHOT_OPENAI_MODEL", "LLM_MODEL"),
        description="Model at that endpoint.",
    )
    max_tokens: int = Field(
        150,
        validation_alias=AliasChoices("EARSHOT_MAX_TOKENS", "LLM_MAX_TOKENS"),
        description="Most tokens of a reply (G4).",
    )
    temperature: float = Field(
        0.7,
        validation_alias=AliasChoices("EARSHOT_TEMPERATURE", "LLM_TEMPERATURE"),
        description="Sampling temperature (G4).",
    )
    prompt_price: float = Field(0.0, ge=0, description="Dollars per million prompt tokens, for the cost metric.")
    completion_price: float = Field(0.0, ge=0, description="Dollars per million completion tokens.")
    describe_players: bool = Field(
        False, description="Players without a description are described by a model that sees their avatar (vision)."
    )
    roblox_thumbnails_url: str = Field(
        "https://thumbnails.roblox.com/v1/users/avatar?userIds={user_id}&size=420x420&format=Png&isCircular=false",
        description="Where a player's picture is looked up.",
    )
    roblox_users_url: str = Field(
        "https://users.roblox.com/v1/users/{user_id}", description="Where a player's display name is looked up."
    )
    vision: bool = Field(False, description="The OpenAI-compatible model sees pictures: players are described by it.")
    context_tokens: int = Field(
        0, ge=0, description="Context window of the OpenAI-compatible model; the prompt is fitted to it; 0 = not said."
    )
    context_messages: int = Field(
        10,
        validation_alias=AliasChoices("EARSHOT_CONTEXT_MESSAGES", "CONTEXT_WINDOW_SIZE"),
        description="Latest log lines that a stateless runtime gets (G4).",
    )

    # -- chat (D) --------------------------------------------------------------------------------------------------
    tau: float = Field(0.5, ge=0, le=1, description="Speak iff P(any NPC) exceeds this.")
    tau_silence: float = Field(0.3, ge=0, le=1, description="The same after an awkward silence.")
    awkward_silence_s: float = Field(7.0, description="Silence after which the floor is scored once more.")
    urgent_workers: int = Field(5, description="Urgent turns at once per world (D3).")
    urgent_wait_s: float = Field(0.5, description="Longest wait of an urgent turn (D3).")
    conversation_workers: int = Field(3, description="Other turns at once per world (D3).")
    conversation_wait_s: float = Field(2.0, description="Longest wait of another turn (D3).")
    npc_turns_soft: int = Field(2, description="NPC turns since a player spoke: more only when addressed.")
    npc_turns_hard: int = Field(3, description="NPC turns since a player spoke: never more.")
    calls_per_message_mean: float = Field(
        0.6,
        ge=0,
        description="Runtime calls per line where several players talk, about; 0 = no bound.",
    )
    cooldown_npc_s: float = Field(0.0, description="An NPC rests this long after a turn, unless addressed (D2).")
    pair_turns: int = Field(3, ge=1, description="Turns that two NPCs take to each other within pair_window_s (D2).")
    pair_window_s: float = Field(60.0, gt=0, description="Then neither follows the other for so long.")
    cooldown_greeting_s: float = Field(120.0, description="One greeting per player and conversation within this (D2).")
    greetings: bool = Field(True, description="One NPC may greet an arriving player.")
    npc_to_npc: bool = Field(False, description="NPCs may talk with no player present.")
    gather_ms: int = Field(
        100,
        description="Existing game: its calls for one sentence are gathered this long; the call of an NPC that the "
        "sentence names is waited for up to a second.",
    )
    player_messages_per_10s: int = Field(10, description="Per player; more is refused RATE_LIMITED (D5).")
    conversation_messages_per_10s: int = Field(
        40, ge=1, description="Per conversation; more is refused RATE_LIMITED (D5)."
    )
    player_turns_per_day: int = Field(
        0, ge=0, description="NPC turns that one player may cause in a world per UTC day (D5); 0 = no cap."
    )
    player_minutes_per_day: float = Field(
        0.0, ge=0, description="Minutes that one player may talk to NPCs in a world per UTC day (D5); 0 = no cap."
    )
    places: dict[str, PlaceSettings] = Field(
        {},
        description="Settings of places by slug of the location, as JSON: "
        '{"tavern": {"tau": 0.35, "greetings": false}}; tau, tau_silence, awkward_silence_s, npc_turns_soft, '
        "npc_turns_hard, cooldown_npc_s, cooldown_greeting_s, greetings, npc_to_npc.",
    )
    moderation_url: str = Field(
        "",
        pattern=r"^(https?://.+)?$",
        description='Asked before and after: POST {"stage", "text"} answers {"allowed", "instead"} within a second. '
        "An NPC's sentence that it cannot judge is not shown.",
    )
    moderation_words: str = Field(
        "", description="File of words and phrases, one a line, that no NPC hears and none says."
    )
    self_harm_line: str = Field("", description="Shown to who speaks of self-harm; empty = the built-in line.")
    retention_h: float = Field(24.0, description="Events are kept this long (D7).")
    events_per_world: int = Field(5000, description="And at most this many per world.")
    record: bool = Field(
        False, description="Record conversations for `earshot replay`; only with the consent of those recorded."
    )
    recall_days: float = Field(
        90.0,
        description="How long NPCs of memory scope cross_session remember lines; others as long as events.",
    )
    recall_lines: int = Field(1_000_000, ge=1, description="Lines that recall keeps for one tenant at most.")
    session_absence_s: float = Field(300.0, description="A player's session ends after this absence.")
    utterance_ttl_s: float = Field(30.0, description="An NPC's sentence is not shown after this.")

    # -- discord (G5) ----------------------------------------------------------------------------------------------
    discord_token: str = Field("", description="Token of the bot; with it `earshot up` also speaks on Discord.")
    discord_tenant: str = Field("local", description="Whose NPCs speak on Discord.")
    discord_message_content: bool = Field(
        False, description="The bot has the privileged intent to read messages that do not mention it."
    )
    discord_moderator_roles: str = Field(
        "", description="Ids of roles that may bind channels, beside who may manage channels; comma separated."
    )
    discord_user_roles: str = Field("", description="Ids of roles that NPCs listen to, comma separated; empty = all.")
    discord_join_guilds: str = Field(
        "",
        description="Ids of Discord servers whose moderators may join a channel with a game's world, comma separated;"
        " empty = none.",
    )
    discord_in_game: bool = Field(
        False,
        description="Show what people write on Discord, and what NPCs answer them, to players in the game; its text"
        " filter is your duty.",
    )
    discord_api: str = Field("", description="Another server than Discord's, http://host:port: for tests.")

    def data_path(self, name: str) -> str:
        """File of a room's store, or :memory:."""
        return ":memory:" if self.data == ":memory:" else str(Path(self.data) / f"{name}.db")

    def address(self, room: str) -> str:
        """gRPC address of a room."""
        return str(getattr(self, f"{room}_addr"))
