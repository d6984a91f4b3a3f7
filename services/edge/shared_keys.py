"""Keys and the tokens' secret of edges that share a store: a hash on Redis, looked at once a second off the loop."""

from __future__ import annotations

import asyncio
import secrets
from typing import Any

import msgspec
from redis.exceptions import RedisError

from services.common.errors import EarshotError, Unavailable
from services.common.redis_rows import connect, unavailable
from services.common.settings import Settings
from services.edge.keys import RELOAD_S, KeyFile, StoredKey
from services.edge.token import SECRET_BYTES

KEYS, SECRET = "earshot:keys", "earshot:session"


class SharedKeys(KeyFile):
    """As KeyFile. What a running edge reads is a copy that `run` renews; an outage of the store leaves it as it was."""

    def __init__(self, settings: Settings) -> None:
        super().__init__(settings)
        self._store: Any = connect(settings.store)
        self._copy: list[StoredKey] | None = None
        self._version = 0

    def load(self) -> list[StoredKey]:
        if self._copy is None:
            self._copy = self._fetch()
        return self._copy

    def stamp(self) -> tuple[int, int]:
        return (self._version, 0)

    def _fetch(self) -> list[StoredKey]:
        try:
            rows = self._store.hgetall(KEYS)
        except RedisError as error:
            raise unavailable(error) from None
        try:
            found = [msgspec.json.decode(row, type=StoredKey) for row in rows.values()]
        except msgspec.DecodeError as error:
            raise Unavailable("the keys cannot be read", reason="KEYS_UNREADABLE") from error
        return sorted(found, key=lambda one: (one.created_ms, one.id))

    def _save(self, keys: list[StoredKey], changed: StoredKey) -> None:
        try:
            self._store.hset(KEYS, changed.id, msgspec.json.encode(changed))
        except RedisError as error:
            raise unavailable(error) from None
        self._copy = keys

    async def run(self) -> None:
        """Renew the copy, for ever."""
        while True:
            try:
                found = await asyncio.to_thread(self._fetch)
            except EarshotError:
                found = self._copy or []
            if found != self._copy:
                self._copy, self._version = found, self._version + 1
            await asyncio.sleep(RELOAD_S)


def shared_secret(store: str) -> bytes:
    """What all edges of a store sign tokens with; the first one makes it. Raises Unavailable."""
    client: Any = connect(store)
    try:
        client.set(SECRET, secrets.token_bytes(SECRET_BYTES), nx=True)
        return bytes(client.get(SECRET))
    except RedisError as error:
        raise unavailable(error) from None
    finally:
        client.close()


def keys_of(settings: Settings) -> KeyFile:
    """Where the keys are kept that go with these settings."""
    return SharedKeys(settings) if settings.store else KeyFile(settings)
