"""Clients that lost a stream or a socket and go on by polling (E2): noticed here, so that any client counts. Pure."""

from __future__ import annotations

from collections import OrderedDict

# A poll of the same world within this time goes on where the connection ended.
WITHIN_S = 30.0
KEPT = 10_000

World = tuple[str, str]


class Lost:
    """Connections that ended a moment ago, by world: the newest KEPT of them."""

    def __init__(self) -> None:
        self._ended: OrderedDict[World, tuple[str, float]] = OrderedDict()

    def ended(self, world: World, transport: str, now: float) -> None:
        """A connection of this world ended. now: monotonic seconds."""
        self._ended.pop(world, None)
        self._ended[world] = (transport, now)
        if len(self._ended) > KEPT:
            self._ended.popitem(last=False)

    def taken_up(self, world: World, now: float) -> str:
        """The transport that a poll of this world takes the place of, once; "" for none."""
        transport, at = self._ended.pop(world, ("", 0.0))
        return transport if transport and now - at <= WITHIN_S else ""
