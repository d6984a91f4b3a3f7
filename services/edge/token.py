"""Session tokens: what a key is exchanged for, bound to tenant, key, world and epoch for an hour.

A token is signed, not stored: any edge with the data directory's secret takes it, also after a restart. The key behind
it is checked with every request, so that revoking the key ends its sessions; state's epochs end superseded ones.
"""

from __future__ import annotations

import base64
import contextlib
import hashlib
import hmac
import os
import secrets
import tempfile
from pathlib import Path

import msgspec

from services.common.errors import Unauthenticated
from services.common.settings import Settings

FILE = "session.key"
PREFIX = "es_"
LIFE_S = 3600
SECRET_BYTES = 32


class Session(msgspec.Struct, frozen=True, array_like=True):
    """What a token says."""

    tenant: str
    key_id: str
    world: str
    epoch: int
    # Unix seconds.
    expires: int

    @property
    def id(self) -> str:
        """Names the session in answers; no secret."""
        text = f"{self.tenant}\0{self.world}\0{self.epoch}"
        return hashlib.sha256(text.encode()).hexdigest()[:16]


class Tokens:
    """Signs and checks tokens with the data directory's secret; a directory that keeps nothing gets a fresh one.

    secret: another one, that edges share.
    """

    def __init__(self, settings: Settings, secret: bytes = b"") -> None:
        self._secret = secret or _secret(settings)

    def sign(self, session: Session) -> str:
        payload = msgspec.msgpack.encode(session)
        return PREFIX + _text(payload) + "." + _text(self._mac(payload))

    def check(self, token: str, now_s: float) -> Session:
        """The session of a token. Raises Unauthenticated (UNKNOWN_SESSION, SESSION_EXPIRED)."""
        unknown = Unauthenticated("this session is not known; open one with your key", reason="UNKNOWN_SESSION")
        payload_text, _, mac_text = token.removeprefix(PREFIX).partition(".")
        try:
            payload, mac = _bytes(payload_text), _bytes(mac_text)
        except ValueError:
            raise unknown from None
        if not hmac.compare_digest(mac, self._mac(payload)):
            raise unknown
        session = msgspec.msgpack.decode(payload, type=Session)
        if session.expires <= now_s:
            raise Unauthenticated("this session has expired; open it again", reason="SESSION_EXPIRED")
        return session

    def _mac(self, payload: bytes) -> bytes:
        return hmac.digest(self._secret, payload, "sha256")


def _text(value: bytes) -> str:
    return base64.urlsafe_b64encode(value).rstrip(b"=").decode()


def _bytes(text: str) -> bytes:
    if not text.isascii() or len(text) > 1024:
        raise ValueError("not a token")
    return base64.b64decode(text + "=" * (-len(text) % 4), altchars=b"-_", validate=True)


def _secret(settings: Settings) -> bytes:
    if settings.data == ":memory:":
        return secrets.token_bytes(SECRET_BYTES)
    path = Path(settings.data) / FILE
    path.parent.mkdir(parents=True, exist_ok=True)
    if not path.exists():
        # Written whole, then linked: of several edges that start together the first one's secret is everybody's.
        handle, name = tempfile.mkstemp(dir=path.parent, prefix=FILE)
        with os.fdopen(handle, "wb") as file:
            file.write(secrets.token_bytes(SECRET_BYTES))
            file.flush()
            os.fsync(file.fileno())
        with contextlib.suppress(FileExistsError):
            os.link(name, path)
        os.unlink(name)
    return path.read_bytes()
