"""API keys and the one place where a request becomes a tenant.

A key is `ek_<env>_<id>_<secret>`; only the SHA-256 of the whole is kept, in `keys.json` of the data directory, which a
running edge reads again when it changes. Several live keys per tenant make rotation possible (Roblox does not push a
changed secret to running servers). Without any key the edge serves loopback only, as tenant "local".
"""

from __future__ import annotations

import hashlib
import hmac
import os
import secrets
import tempfile
from dataclasses import dataclass
from pathlib import Path

import msgspec

from services.common.clock import Clock
from services.common.errors import BadInput, Conflict, Forbidden, NotFound, Unauthenticated, Unavailable
from services.common.settings import Settings
from services.edge.peer import loopback
from services.edge.token import PREFIX, Session, Tokens

LOCAL_TENANT = "local"
FILE = "keys.json"
# Seconds between looks at the file.
RELOAD_S = 1.0
TENANT_MAX = 64


class StoredKey(msgspec.Struct, frozen=True):
    """One key as it rests on disk."""

    id: str
    tenant: str
    sha256: str
    created_ms: int
    revoked_ms: int = 0


class _File(msgspec.Struct):
    keys: list[StoredKey]


@dataclass(frozen=True, slots=True)
class Caller:
    """Who asks. The tenant comes from the key only and prefixes everything that rooms keep."""

    tenant: str
    key_id: str = ""
    # Set when the request carries a session's token instead of the key.
    session: Session | None = None


class KeyFile:
    """The keys of a data directory: what the command line changes and the edge reads."""

    def __init__(self, settings: Settings) -> None:
        self.path = None if settings.data == ":memory:" else Path(settings.data) / FILE

    def load(self) -> list[StoredKey]:
        """All keys, also revoked ones. Raises Unavailable when the file cannot be read."""
        if self.path is None:
            return []
        try:
            return msgspec.json.decode(self.path.read_bytes(), type=_File).keys
        except FileNotFoundError:
            return []
        except (OSError, msgspec.DecodeError) as error:
            # Failing open would make every request local.
            raise Unavailable("the key file cannot be read", reason="KEYS_UNREADABLE") from error

    def stamp(self) -> tuple[int, int]:
        """Changes when the file does."""
        try:
            status = os.stat(self.path) if self.path is not None else None
        except OSError:
            status = None
        return (status.st_mtime_ns, status.st_ino) if status else (0, 0)

    def create(self, tenant: str, now_ms: int, env: str = "live") -> tuple[str, StoredKey]:
        """A new key: its text, shown once, and what is kept. Raises BadInput and Conflict (no data directory)."""
        if not (tenant.isascii() and tenant.replace("-", "").isalnum() and len(tenant) <= TENANT_MAX):
            raise BadInput("a tenant is named by 1 to 64 letters, digits and hyphens", reason="INVALID_TENANT")
        if not (env.isascii() and env.isalnum() and len(env) <= 16):
            raise BadInput("an environment is named by 1 to 16 letters and digits", reason="INVALID_TENANT")
        text = f"ek_{env}_{secrets.token_hex(6)}_{secrets.token_hex(24)}"
        stored = StoredKey(text.split("_")[2], tenant, digest(text), now_ms)
        self._save([*self.load(), stored], stored)
        return text, stored

    def revoke(self, key_id: str, now_ms: int) -> StoredKey:
        """End a key. Raises NotFound."""
        keys = self.load()
        for index, stored in enumerate(keys):
            if stored.id == key_id:
                keys[index] = msgspec.structs.replace(stored, revoked_ms=stored.revoked_ms or now_ms)
                self._save(keys, keys[index])
                return keys[index]
        raise NotFound("no key has this id", reason="UNKNOWN_KEY")

    def _save(self, keys: list[StoredKey], changed: StoredKey) -> None:
        if self.path is None:
            raise Conflict("keys need a data directory; this one keeps nothing", reason="NO_DATA_DIRECTORY")
        self.path.parent.mkdir(parents=True, exist_ok=True)
        handle, name = tempfile.mkstemp(dir=self.path.parent, prefix=FILE)
        with os.fdopen(handle, "wb") as file:
            file.write(msgspec.json.format(msgspec.json.encode(_File(keys))))
            file.flush()
            os.fsync(file.fileno())
        os.replace(name, self.path)


class Tenants:
    """Request -> caller."""

    def __init__(self, file: KeyFile, tokens: Tokens, clock: Clock) -> None:
        self._file = file
        self._tokens = tokens
        self._clock = clock
        self._stamp = file.stamp()
        self._keys = file.load()
        self._looked_at = float("-inf")

    @property
    def configured(self) -> bool:
        """Whether keys are needed; once one was made they are, even when all are revoked."""
        return bool(self._keys)

    def resolve(self, path_key: str, headers: dict[bytes, bytes]) -> Caller:
        """The caller of a request: by Authorization or by the key in its path.

        Raises Unauthenticated, and Forbidden for a request that a web page elsewhere made or that came to an edge
        without keys under a foreign name (a page's DNS rebinding).
        """
        self._refresh()
        host = headers.get(b"host", b"").decode("latin-1").lower()
        refuse_foreign_page(host, headers)
        text = path_key or _bearer(headers)
        if not self._keys and not is_loopback(host_name(host)):
            raise Forbidden(
                "without keys this edge answers on loopback names only; create one with: earshot key create",
                reason="KEYS_NEEDED",
            )
        if text.startswith(PREFIX):
            return self._caller_in(text)
        if not self._keys:
            return Caller(LOCAL_TENANT)
        if not text:
            raise Unauthenticated("send Authorization: Bearer <key>, or /k/<key>/ before the path", reason="KEY_NEEDED")
        return self._caller_of(text)

    def _caller_in(self, token: str) -> Caller:
        """The caller of a session's token, as long as the key that it was opened with lives."""
        session = self._tokens.check(token, self._clock.now_ms() / 1000)
        live = any(stored.id == session.key_id and not stored.revoked_ms for stored in self._keys)
        if self._keys and not live:
            raise Unauthenticated("the key of this session was revoked", reason="UNKNOWN_SESSION")
        return Caller(session.tenant, session.key_id, session)

    def _caller_of(self, text: str) -> Caller:
        wanted = digest(text)
        found = None
        for stored in self._keys:
            # Every key is compared, in constant time each: the answer's time says nothing.
            if hmac.compare_digest(stored.sha256, wanted) and not stored.revoked_ms:
                found = stored
        if found is None:
            raise Unauthenticated("this key is not known or was revoked", reason="UNKNOWN_KEY")
        return Caller(found.tenant, found.id)

    def _refresh(self) -> None:
        now = self._clock.monotonic()
        if now - self._looked_at < RELOAD_S:
            return
        self._looked_at = now
        stamp = self._file.stamp()
        if stamp != self._stamp:
            keys = self._file.load()
            # A file that vanished must not open the door.
            if keys or not self._keys:
                self._keys = keys
            self._stamp = stamp


def digest(text: str) -> str:
    """SHA-256 of a key. The secret has 192 random bits: it needs no slow hash."""
    return hashlib.sha256(text.encode()).hexdigest()


def host_name(host: str) -> str:
    """The name in a Host value, without the port."""
    if host.startswith("["):
        return host[1:].partition("]")[0]
    return host.partition(":")[0]


def is_loopback(name: str) -> bool:
    """Whether a name or an address is this machine's own by definition."""
    return name in ("localhost", "") or name.endswith(".localhost") or loopback(name)


def refuse_foreign_page(host: str, headers: dict[bytes, bytes]) -> None:
    """Cross-origin requests of browsers are off: a page elsewhere must not drive a local edge. Games send no Origin."""
    origin = headers.get(b"origin")
    if origin is not None and origin.decode("latin-1").lower().partition("://")[2] != host:
        raise Forbidden("requests of other origins' pages are not served", reason="FOREIGN_ORIGIN")


def _bearer(headers: dict[bytes, bytes]) -> str:
    scheme, _, value = headers.get(b"authorization", b"").partition(b" ")
    return value.strip().decode("latin-1") if scheme.lower() == b"bearer" else ""
