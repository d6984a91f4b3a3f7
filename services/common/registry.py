"""Who is there, and who owns what: a room's replicas and partitions on the Redis protocol.

A replica that is heard of is alive for one lease, by the server's clock. The owner of a partition is named where its
rows are, with its token; a second table tells callers where to find it. The first decides, the second only helps.
"""

from __future__ import annotations

import uuid
from collections.abc import AsyncIterator, Collection, Iterable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

import redis.asyncio as aioredis
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.exceptions import RedisError

from services.common.redis_rows import TIMEOUT_S, key, unavailable

# KEYS: replicas by the end of their lease, their addresses. ARGV: id, address, lease in ms.
_BEAT = """
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
redis.call('ZADD', KEYS[1], now + ARGV[3], ARGV[1])
redis.call('HSET', KEYS[2], ARGV[1], ARGV[2])
local gone = redis.call('ZRANGEBYSCORE', KEYS[1], '-inf', '(' .. now)
if #gone > 0 then
  redis.call('ZREM', KEYS[1], unpack(gone))
  redis.call('HDEL', KEYS[2], unpack(gone))
end
return redis.call('HGETALL', KEYS[2])
"""
# KEYS: fence of a partition. ARGV: id, then everybody who is alive. Answers the new token, 0 = somebody alive has it.
_TAKE = """
local held = redis.call('HMGET', KEYS[1], 'token', 'owner')
for i = 2, #ARGV do
  if held[2] == ARGV[i] and held[2] ~= ARGV[1] then return 0 end
end
local token = (tonumber(held[1] or '0')) + 1
redis.call('HSET', KEYS[1], 'token', token, 'owner', ARGV[1], 'batch', 0)
return token
"""
# KEYS: fence of a partition. ARGV: token.
_GIVE = "if redis.call('HGET', KEYS[1], 'token') == ARGV[1] then redis.call('HSET', KEYS[1], 'owner', '') end return 1"
# KEYS: owners, their version. ARGV: the new version, id and address, partitions.
_UNSHOW = """
redis.call('SET', KEYS[2], ARGV[1])
for i = 3, #ARGV do
  if redis.call('HGET', KEYS[1], ARGV[i]) == ARGV[2] then redis.call('HDEL', KEYS[1], ARGV[i]) end
end
return 1
"""
# KEYS: owners, their version, addresses, replicas. ARGV: the version that is known. Owners only where there is another:
# everybody looks twice a second, and they are the most of what there is to see.
_LOOK = """
local version, owners = redis.call('GET', KEYS[2]) or '', {}
if version == '' or version ~= ARGV[1] then owners = redis.call('HGETALL', KEYS[1]) end
return {version, owners, redis.call('HGETALL', KEYS[3]), redis.call('ZRANGE', KEYS[4], 0, -1, 'WITHSCORES'),
        redis.call('TIME')}
"""


@dataclass(frozen=True, slots=True)
class Replica:
    """One process that hosts the room. address: where others reach it, "" = nowhere."""

    id: str
    address: str

    @property
    def shown(self) -> str:
        return f"{self.id} {self.address}"


def client(url: str) -> aioredis.Redis:
    """A client for this loop that gives up after TIMEOUT_S and never retries by itself."""
    return aioredis.Redis.from_url(
        url,
        socket_timeout=TIMEOUT_S,
        socket_connect_timeout=TIMEOUT_S,
        retry=Retry(NoBackoff(), 0),
        decode_responses=True,
    )


class Registry:
    """One room's. Every call raises Unavailable (STORE_UNAVAILABLE) when the store cannot be reached."""

    def __init__(self, store: aioredis.Redis, room: str) -> None:
        # The library types each answer as that of either kind of client.
        self._store: Any = store
        self._room = room
        self._replicas, self._addresses, self._owners, self._version = (
            f"{{earshot:{room}}}:{name}" for name in ("replicas", "addresses", "owners", "version")
        )
        # Owners as they were seen last, and of which version; versions are random, so that none comes twice.
        self._known: tuple[str, dict[int, str]] = "", {}

    async def beat(self, me: Replica, lease_ms: int) -> dict[str, str]:
        """Be alive for one lease from now. Answers who is: address by id."""
        async with _told():
            found: Any = await self._store.eval(
                _BEAT, 2, self._replicas, self._addresses, me.id, me.address, str(lease_ms)
            )
        return _pairs(found)

    async def part(self, me: Replica) -> None:
        """Be gone, at once."""
        async with _told(), self._store.pipeline(transaction=True) as pipe:
            await pipe.zrem(self._replicas, me.id).hdel(self._addresses, me.id).execute()

    async def look(self) -> tuple[dict[int, str], dict[str, int]]:
        """Who serves each partition, and how long everybody's lease lasts, in ms, by address."""
        async with _told():
            version, shown, addresses, leases, (seconds, micros) = await self._store.eval(
                _LOOK, 4, self._owners, self._version, self._addresses, self._replicas, self._known[0]
            )
        if not version or version != self._known[0]:
            self._known = version, {int(one): owner.partition(" ")[2] for one, owner in _pairs(shown).items()}
        now = int(seconds) * 1000 + int(micros) // 1000
        known = _pairs(addresses)
        left = {known[one]: int(float(until)) - now for one, until in _pairs(leases).items() if one in known}
        return self._known[1], left

    async def owners(self) -> dict[int, str]:
        """Who serves each partition, as `Replica.shown`."""
        async with _told():
            shown = await self._store.hgetall(self._owners)
        return {int(partition): owner for partition, owner in shown.items()}

    async def take(self, partitions: Collection[int], me: Replica, alive: Iterable[str]) -> dict[int, int]:
        """Own what nobody alive owns: token by partition. Whoever held it before is fenced off from now on."""
        arguments = [me.id, *alive]
        answers = await self._each(_TAKE, dict.fromkeys(partitions, arguments))
        return {partition: int(token) for partition, token in answers.items() if int(token)}

    async def give(self, tokens: Mapping[int, int]) -> None:
        """Own these no more."""
        await self._each(_GIVE, {partition: [token] for partition, token in tokens.items()})

    async def tokens(self, partitions: Collection[int]) -> dict[int, int]:
        """The token that each partition has now."""
        async with _told(), self._store.pipeline(transaction=False) as pipe:
            for partition in partitions:
                pipe.hget(key(self._room, partition, "fence"), "token")
            found = await pipe.execute()
        return {partition: int(token or 0) for partition, token in zip(partitions, found, strict=True)}

    async def show(self, me: Replica, partitions: Collection[int]) -> None:
        """Let callers know that these are served here."""
        if partitions:
            async with _told(), self._store.pipeline(transaction=True) as pipe:
                pipe.hset(self._owners, mapping={str(one): me.shown for one in partitions})
                await pipe.set(self._version, uuid.uuid4().hex).execute()

    async def unshow(self, me: Replica, partitions: Collection[int]) -> None:
        """Let callers know that these are not, or soon not, served here."""
        if partitions:
            async with _told():
                await self._store.eval(
                    _UNSHOW, 2, self._owners, self._version, uuid.uuid4().hex, me.shown, *map(str, partitions)
                )

    async def _each(self, script: str, arguments: Mapping[int, Collection[Any]]) -> dict[int, Any]:
        async with _told(), self._store.pipeline(transaction=False) as pipe:
            for partition, some in arguments.items():
                pipe.eval(script, 1, key(self._room, partition, "fence"), *some)
            return dict(zip(arguments, await pipe.execute(), strict=True))


def _pairs(found: Any) -> dict[str, str]:
    """A script's hash: a flat list, or a map where the protocol has them."""
    return dict(found) if isinstance(found, dict) else dict(zip(found[::2], found[1::2], strict=True))


@asynccontextmanager
async def _told() -> AsyncIterator[None]:
    try:
        yield
    except RedisError as error:
        raise unavailable(error) from None
