"""Mutual TLS between rooms: who a process is, and who may call which room.

A process has a directory with `ca.pem`, `cert.pem` and `key.pem` (`EARSHOT_TLS`; `earshot certs` makes them). Its
certificate carries the DNS name `<room>.earshot` for every room that it hosts, and that name, not the address, is what
the other side checks: a room may move without a new certificate. Plaintext is for loopback and Unix sockets alone.

The files are read at start: a renewed certificate takes effect with the next (rolling) restart.
"""

from __future__ import annotations

import inspect
import ipaddress
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import grpc

from services.common.errors import BadInput, Forbidden

CA, CERT, KEY = "ca.pem", "cert.pem", "key.pem"

# The arrows of docs/architecture.md.
_CALLERS: Mapping[str, frozenset[str]] = {
    "state": frozenset({"edge", "sync", "chat", "discord"}),
    "cluster": frozenset({"state"}),
    "sync": frozenset({"edge", "chat"}),
    "chat": frozenset({"edge", "discord"}),
}


def name_of(room: str) -> str:
    """DNS name that stands for a room in certificates."""
    return f"{room}.earshot"


@dataclass(frozen=True, slots=True)
class Identity:
    """A process's certificate and key, and the authority that it trusts; all PEM."""

    ca: bytes
    cert: bytes
    key: bytes

    def server(self) -> grpc.ServerCredentials:
        """Credentials that also demand a certificate of the caller."""
        return grpc.ssl_server_credentials([(self.key, self.cert)], root_certificates=self.ca, require_client_auth=True)

    def channel(self) -> grpc.ChannelCredentials:
        """Credentials of a caller."""
        return grpc.ssl_channel_credentials(self.ca, self.key, self.cert)


def load(directory: str) -> Identity | None:
    """The identity in a directory, None for "". Raises BadInput (TLS_FILES) naming the file that cannot be read."""
    if not directory:
        return None
    read = {}
    for name in (CA, CERT, KEY):
        try:
            read[name] = (Path(directory) / name).read_bytes()
        except OSError as error:
            raise BadInput(
                f"EARSHOT_TLS: {name} cannot be read ({type(error).__name__}); `earshot certs` makes it",
                reason="TLS_FILES",
            ) from error
    return Identity(read[CA], read[CERT], read[KEY])


def is_local(address: str) -> bool:
    """Whether a gRPC address never leaves this machine: a Unix socket, or a loopback host."""
    if address.startswith(("unix:", "unix-abstract:")):
        return True
    host = address.rpartition(":")[0].strip("[]")
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def require(identity: Identity | None, addresses: Mapping[str, str]) -> None:
    """Refuse plaintext that would leave the machine.

    addresses: room -> address that this process listens on or calls. Raises BadInput (PLAINTEXT_REFUSED).
    """
    exposed = [] if identity else [f"{room} at {at}" for room, at in sorted(addresses.items()) if not is_local(at)]
    if exposed:
        raise BadInput(
            f"rooms talk across machines only with mutual TLS: set EARSHOT_TLS for {', '.join(exposed)}",
            reason="PLAINTEXT_REFUSED",
        )


def callers(room: str, more: str = "") -> frozenset[str]:
    """Names that may call a room. more: setting `tls_callers`, "room=name,room=name"."""
    extra = {
        name.strip()
        for pair in more.split(",")
        for at, _, name in [pair.partition("=")]
        if at.strip() == room and name.strip()
    }
    return frozenset({name_of(caller) for caller in _CALLERS.get(room, ())} | extra)


class CallerInterceptor(grpc.aio.ServerInterceptor):
    """Refuses callers whose certificate names nobody who may call the room: Forbidden (CALLER_REFUSED).

    Stands inside RoomInterceptor, which makes a status of the error. Health checks are open to every certificate that
    the authority signed.
    """

    def __init__(self, rooms: Iterable[str], more: str = "") -> None:
        self._allowed = {room: callers(room, more) for room in rooms}

    async def intercept_service(
        self,
        continuation: Callable[[grpc.HandlerCallDetails], Awaitable[Any]],
        details: grpc.HandlerCallDetails,
    ) -> Any:
        handler = await continuation(details)
        method: str = details.method
        if handler is None or not method.startswith("/earshot."):
            return handler
        return _guarded(handler, self._allowed.get(method.split(".")[1], frozenset()))


def _guarded(handler: Any, allowed: frozenset[str]) -> Any:
    form = ("stream" if handler.request_streaming else "unary", "stream" if handler.response_streaming else "unary")
    behavior = getattr(handler, "_".join(form))
    make = getattr(grpc, "_".join(form) + "_rpc_method_handler")

    async def once(request: Any, context: Any) -> Any:
        _check(context, allowed)
        return await behavior(request, context)

    async def many(request: Any, context: Any) -> AsyncIterator[Any]:
        _check(context, allowed)
        async for response in behavior(request, context):
            yield response

    return make(
        many if inspect.isasyncgenfunction(behavior) else once,
        request_deserializer=handler.request_deserializer,
        response_serializer=handler.response_serializer,
    )


def _check(context: Any, allowed: frozenset[str]) -> None:
    names = {name.decode() for name in context.auth_context().get("x509_subject_alternative_name", ())}
    if not names & allowed:
        raise Forbidden("this certificate names no room that may call here", reason="CALLER_REFUSED")
