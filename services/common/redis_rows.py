"""Rows on the Redis protocol: what several replicas of a room share.

A room's partition is one hash slot, `{earshot:<room>:<partition>}`: a hash of who may write (token, owner, number of
the last batch) and one hash a table, field = primary key, value = row. One script compares the token and writes a
batch, so that an owner that lost its lease cannot write late; the batch's number makes sending it again harmless, and
keeps a batch that was given up from landing after its successor.
"""

from __future__ import annotations

import hashlib
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import redis
from redis.backoff import NoBackoff
from redis.exceptions import NoScriptError, RedisError, ResponseError
from redis.retry import Retry

from services.common.errors import BadInput, Unavailable
from services.common.logs import get_logger

# A call that takes longer is given up: its outcome is asked for again with the same number.
TIMEOUT_S = 1.0
MINIMUM = (7, 0)
# How long a rewriting of the server's log is waited for.
COMPACT_S, AGAIN_S = 10.0, 0.1
# Replicas number themselves; two that live at once share a number only after so many starts (2 to the power of).
SLOT_BITS = 10
PAGE = 500
# Arguments of one command within the script: Lua's stack is bounded.
CHUNK = 1000

_WRITE = f"""
local held = redis.call('HMGET', KEYS[1], 'token', 'batch')
if held[1] ~= ARGV[1] then return 'FENCED' end
if tonumber(held[2] or '0') >= tonumber(ARGV[2]) then return 'KNOWN' end
local at = 3
for k = 2, #KEYS do
  local puts, cuts = tonumber(ARGV[at]), tonumber(ARGV[at + 1])
  at = at + 2
  for from = at, at + puts - 1, {CHUNK} do
    redis.call('HSET', KEYS[k], unpack(ARGV, from, math.min(from + {CHUNK} - 1, at + puts - 1)))
  end
  at = at + puts
  for from = at, at + cuts - 1, {CHUNK} do
    redis.call('HDEL', KEYS[k], unpack(ARGV, from, math.min(from + {CHUNK} - 1, at + cuts - 1)))
  end
  at = at + cuts
end
redis.call('HSET', KEYS[1], 'batch', ARGV[2])
return 'KEPT'
"""

_WRITE_SHA = hashlib.sha1(_WRITE.encode(), usedforsecurity=False).hexdigest()

_log = get_logger("common")

Rows = dict[bytes, bytes | None]
"""Rows by primary key; None = it is gone."""


@dataclass(slots=True)
class Batch:
    """What one group commit changed in one partition: rows by table."""

    partition: int
    token: int
    number: int
    tables: dict[str, Rows] = field(default_factory=dict)


def connect(url: str, **more: Any) -> redis.Redis:
    """A client that never retries by itself and gives up after TIMEOUT_S. Raises BadInput (BAD_STORE)."""
    try:
        return redis.Redis.from_url(
            url, socket_timeout=TIMEOUT_S, socket_connect_timeout=TIMEOUT_S, retry=Retry(NoBackoff(), 0), **more
        )
    except ValueError as error:
        raise BadInput(f"EARSHOT_STORE is not an address: {error}", reason="BAD_STORE") from None


def new_slot(url: str) -> int:
    """A number for a process that starts, below 2**SLOT_BITS. Raises Unavailable."""
    client = connect(url)
    try:
        return int(client.incr("earshot:starts")) % (1 << SLOT_BITS)
    except RedisError as error:
        raise unavailable(error) from None
    finally:
        client.close()


def key(room: str, partition: int, name: str) -> str:
    """The name of a key in the room's partition."""
    return f"{{earshot:{room}:{partition}}}:{name}"


class RedisRows:
    """One room's rows. Blocks: it is used on the store's own thread. Raises Unavailable (STORE_UNAVAILABLE)."""

    def __init__(self, url: str, room: str) -> None:
        self.room = room
        self._client = connect(url)

    def write(self, batches: Sequence[Batch]) -> set[int]:
        """Keep batches, each in one step, all in one round trip. Answers the partitions that another owner took."""
        try:
            answers = self._run(batches)
            if any(isinstance(answer, NoScriptError) for answer in answers):
                # The server was restarted. A batch that it knows already changes nothing.
                self._client.script_load(_WRITE)
                answers = self._run(batches)
        except RedisError as error:
            raise unavailable(error) from None
        for answer in answers:
            if isinstance(answer, RedisError):
                raise unavailable(answer) from None
        return {batch.partition for batch, answer in zip(batches, answers, strict=True) if answer == b"FENCED"}

    def _run(self, batches: Sequence[Batch]) -> list[Any]:
        pipe = self._client.pipeline(transaction=False)
        for batch in batches:
            keys = [key(self.room, batch.partition, name) for name in ("fence", *batch.tables)]
            arguments: list[Any] = [batch.token, batch.number]
            for rows in batch.tables.values():
                puts = [part for field, value in rows.items() if value is not None for part in (field, value)]
                cuts = [field for field, value in rows.items() if value is None]
                arguments += [len(puts), len(cuts), *puts, *cuts]
            pipe.evalsha(_WRITE_SHA, len(keys), *keys, *arguments)
        return pipe.execute(raise_on_error=False)

    def read(self, partition: int, tables: Sequence[str]) -> Iterator[tuple[str, list[bytes]]]:
        """(table, rows) of a partition, a page at a time."""
        for table in tables:
            name, cursor = key(self.room, partition, table), 0
            page: Any
            while True:
                try:
                    cursor, page = self._client.hscan(name, cursor, count=PAGE)
                except RedisError as error:
                    raise unavailable(error) from None
                if page:
                    yield table, list(page.values())
                if not cursor:
                    break

    def get(self, partition: int, table: str, field: bytes) -> bytes | None:
        """One row."""
        try:
            found: Any = self._client.hget(key(self.room, partition, table), field)
        except RedisError as error:
            raise unavailable(error) from None
        return found if isinstance(found, bytes) else None

    def filled(self, partitions: Sequence[int], tables: Sequence[str]) -> dict[int, list[str]]:
        """The tables that hold anything, by partition: most of a young world's are empty."""
        pipe = self._client.pipeline(transaction=False)
        for partition in partitions:
            for table in tables:
                pipe.exists(key(self.room, partition, table))
        try:
            found = iter(pipe.execute())
        except RedisError as error:
            raise unavailable(error) from None
        return {partition: [table for table in tables if next(found)] for partition in partitions}

    def compact(self) -> None:
        """Have the server write its log anew: what was deleted leaves it. Raises Unavailable (STORE_BUSY).

        One that runs already may have begun before the deletion: it is waited for.
        """
        until = time.monotonic() + COMPACT_S
        while True:
            try:
                self._client.bgrewriteaof()
            except ResponseError as error:
                if "progress" not in str(error).lower():
                    _log.warning("store_log_not_rewritten", error=str(error).split(" ")[0])
                    return
            except RedisError as error:
                raise unavailable(error) from None
            else:
                return
            if time.monotonic() > until:
                raise Unavailable("the store is rewriting its log", reason="STORE_BUSY", retry_after_ms=1000)
            time.sleep(AGAIN_S)

    def close(self) -> None:
        self._client.close()


def unavailable(error: Exception) -> Unavailable:
    """A failure of Redis as its callers see it."""
    _log.debug("store_failed", error=type(error).__name__)
    return Unavailable("the shared store cannot be reached", reason="STORE_UNAVAILABLE", retry_after_ms=1000)


def fit(url: str) -> None:
    """What must hold of the server before anything is kept on it.

    Raises BadInput (STORE_UNFIT) with what to do, Unavailable (STORE_UNAVAILABLE) when it cannot be reached.
    """
    client = connect(url)
    try:
        info = client.info("server") | client.info("replication")
        settings = _settings(client)
    except RedisError as error:
        raise Unavailable(
            f"cannot reach the store {_shown(url)} ({type(error).__name__}): is redis-server running there, "
            "and EARSHOT_STORE right?",
            reason="STORE_UNAVAILABLE",
        ) from None
    finally:
        client.close()
    for complaint in complaints(info, settings):
        raise BadInput(f"the store {_shown(url)} is not fit: {complaint}", reason="STORE_UNFIT")
    if settings.get("appendfsync") == "everysec":
        _log.warning("store_may_lose_a_second", on="power loss", set="appendfsync always")


def complaints(info: Mapping[str, Any], settings: Mapping[str, str]) -> Iterator[str]:
    """What is wrong with a server, and what to do about it."""
    version = str(info.get("redis_version", "0"))
    if tuple(int(part) for part in version.split(".")[:2] if part.isdigit()) < MINIMUM:
        yield f"it is version {version}; use Redis 7.0 or newer, or Valkey"
    if info.get("role", "master") != "master":
        yield "it is a replica, which cannot be written; name the primary"
    policy = settings.get("maxmemory-policy", "noeviction")
    if policy != "noeviction":
        yield f"maxmemory-policy is {policy}, which throws worlds away when memory is short; set it to noeviction"
    if settings.get("appendonly", "yes") != "yes":
        yield "it keeps nothing over a restart; start it with --appendonly yes --appendfsync always"
    elif settings.get("appendfsync") == "no":
        yield "appendfsync is no; set it to always (or everysec: a power loss then costs up to a second)"


def _settings(client: redis.Redis) -> dict[str, str]:
    """The server's settings that matter; {} where it does not tell (managed servers)."""
    try:
        found = client.config_get("maxmemory-policy", "appendonly", "appendfsync")
    except ResponseError:
        _log.warning("store_settings_unknown", needed="maxmemory-policy noeviction, persistence")
        return {}
    return {_text(name): _text(value) for name, value in found.items()}


def _text(value: str | bytes | None) -> str:
    return value.decode() if isinstance(value, bytes) else str(value or "")


def _shown(url: str) -> str:
    """The address without user and password."""
    scheme, _, rest = url.partition("://")
    return f"{scheme}://{rest.rpartition('@')[2]}"
