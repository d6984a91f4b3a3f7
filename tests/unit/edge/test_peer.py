"""Whose address counts: never one that a client could have written itself."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from services.edge.peer import HOPS_MAX, all_loopback, client_address, networks

TRUSTED = networks("127.0.0.1, 10.0.0.0/8, ::1")
ADDRESSES = st.ip_addresses().map(str)


@pytest.mark.parametrize(
    ("peer", "forwarded", "client"),
    [
        ("192.0.2.1", "198.51.100.1", "192.0.2.1"),
        ("127.0.0.1", "", "127.0.0.1"),
        ("127.0.0.1", "198.51.100.1", "198.51.100.1"),
        ("127.0.0.1", "198.51.100.9, 198.51.100.1", "198.51.100.1"),
        ("127.0.0.1", "198.51.100.1, 10.2.3.4", "198.51.100.1"),
        ("127.0.0.1", "made up, 10.2.3.4", "10.2.3.4"),
        ("127.0.0.1", "made up", "127.0.0.1"),
        ("127.0.0.1", "198.51.100.1:5000", "198.51.100.1"),
        ("::1", "[2001:DB8::1]:5000", "2001:db8::1"),
        ("::1", "2001:db8:0::1", "2001:db8::1"),
        ("", "198.51.100.1", ""),
        ("testclient", "198.51.100.1", "testclient"),
        ("127.0.0.1", ", ".join(["198.51.100.1", *["10.0.0.1"] * (HOPS_MAX + 5)]), "10.0.0.1"),
    ],
)
def test_the_client_is_the_last_that_no_proxy_is(peer: str, forwarded: str, client: str) -> None:
    assert client_address(peer, forwarded.encode(), TRUSTED) == client


@settings(max_examples=50)
@given(made_up=st.binary(max_size=60), seen=ADDRESSES, peer=ADDRESSES)
def test_what_a_client_writes_never_matters(made_up: bytes, seen: str, peer: str) -> None:
    """Whatever came before, the address that the trusted proxy appended stands; without one, the peer."""
    trusted = networks("10.0.0.1")
    assert client_address(peer, made_up, ()) == peer
    assert client_address("10.0.0.1", made_up + b", " + seen.encode(), trusted) == seen or seen == "10.0.0.1"


@settings(max_examples=50)
@given(made_up=st.binary(max_size=60), seen=ADDRESSES)
def test_no_word_of_a_client_makes_a_request_local(made_up: bytes, seen: str) -> None:
    here = seen.startswith("127.") or seen == "::1"
    assert not all_loopback("127.0.0.1", made_up + b", " + seen.encode()) or here


def test_a_request_without_a_proxy_is_local() -> None:
    assert all_loopback("127.0.0.1", b"")
    assert all_loopback("::1", b"127.0.0.1")
    assert all_loopback("", b"")
    assert not all_loopback("192.0.2.1", b"")
