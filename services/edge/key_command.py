"""`earshot key create|list|revoke`: the keys of a data directory; a running edge takes up a change by itself."""

from __future__ import annotations

import datetime

from services.common.settings import Settings
from services.edge.keys import KeyFile, StoredKey


def create_key(settings: Settings, tenant: str, now_ms: int, env: str = "live") -> list[str]:
    """Lines to print: the new key, which is shown this once. Raises BadInput, Conflict (no data directory)."""
    text, stored = KeyFile(settings).create(tenant, now_ms, env)
    return [text, f"Key {stored.id} of tenant {stored.tenant}. Keep it: only its digest is stored."]


def list_keys(settings: Settings) -> list[str]:
    """Lines to print: id, tenant, when made, whether it lives; never a secret."""
    keys = KeyFile(settings).load()
    return [_line(stored) for stored in keys] or ["There are no keys: the edge serves loopback only."]


def revoke_key(settings: Settings, key_id: str, now_ms: int) -> list[str]:
    """Lines to print once the key is dead. Raises NotFound."""
    return [_line(KeyFile(settings).revoke(key_id, now_ms))]


def _line(stored: StoredKey) -> str:
    state = f"revoked {_day(stored.revoked_ms)}" if stored.revoked_ms else "live"
    return f"{stored.id}  {stored.tenant:24}  made {_day(stored.created_ms)}  {state}"


def _day(unix_ms: int) -> str:
    return datetime.datetime.fromtimestamp(unix_ms / 1000, datetime.UTC).strftime("%Y-%m-%d %H:%M")
