"""Whose request it is, by address: the connection's peer, or what a trusted proxy says of the client. Pure.

X-Forwarded-For counts only from configured proxies: anyone can write it. An address limits and confines; it is never a
credential.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Sequence
from functools import lru_cache

from services.common.errors import BadInput

Network = ipaddress.IPv4Network | ipaddress.IPv6Network
# Hops of a header that are looked at, the nearest first.
HOPS_MAX = 16


def networks(text: str) -> tuple[Network, ...]:
    """Addresses and networks of a setting, comma separated. Raises BadInput (INVALID_SETTING)."""
    found = []
    for part in filter(None, (one.strip() for one in text.split(","))):
        try:
            found.append(ipaddress.ip_network(part))
        except ValueError:
            raise BadInput(f"trusted_proxies: not an address or network: {part}", reason="INVALID_SETTING") from None
    return tuple(found)


def client_address(peer: str, forwarded_for: bytes, trusted: Sequence[Network]) -> str:
    """The client's address: the last one that no trusted proxy vouches for itself.

    From the right, because each proxy appends the address that it saw; what stands left of an untrusted or unreadable
    one may be made up.
    """
    if not forwarded_for or not _within(peer, trusted):
        return peer
    address = peer
    for hop in reversed(forwarded_for.decode("latin-1").rsplit(",", HOPS_MAX)[-HOPS_MAX:]):
        read = _read(hop.strip())
        if read is None:
            return address
        address = read
        if not _within(address, trusted):
            return address
    return address


def all_loopback(peer: str, forwarded_for: bytes) -> bool:
    """Whether nothing says that the request came from elsewhere: neither its peer nor any address in the header.

    Here untrusted words count too, because they can only refuse.
    """
    hops = [peer] if peer else []
    if forwarded_for:
        hops += [_read(hop.strip()) or "unknown" for hop in forwarded_for.decode("latin-1").split(",")]
    return all(map(loopback, hops))


def _read(text: str) -> str | None:
    """An address without port or brackets, in its one spelling; None when it is none."""
    if text.startswith("["):
        text = text[1:].partition("]")[0]
    elif text.count(":") == 1:
        text = text.partition(":")[0]
    try:
        return str(ipaddress.ip_address(text))
    except ValueError:
        return None


def _within(address: str, trusted: Sequence[Network]) -> bool:
    try:
        parsed = ipaddress.ip_address(address)
    except ValueError:
        return False
    return any(parsed in network for network in trusted)


@lru_cache(maxsize=1024)
def loopback(address: str) -> bool:
    """Whether an address is this machine's own. Remembered: every request asks it of its peer and of its host."""
    try:
        return ipaddress.ip_address(address).is_loopback
    except ValueError:
        return False
