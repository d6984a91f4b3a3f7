"""Who goes on by polling after a lost stream or socket is counted once."""

from __future__ import annotations

import pytest

from services.edge.fallback import KEPT, WITHIN_S, Lost
from tests.unit.edge.fakes import world
from tests.unit.edge.test_web_socket import connected


def test_a_poll_takes_the_place_of_the_last_connection_once() -> None:
    lost = Lost()
    assert lost.taken_up(("t", "w"), 0.0) == ""
    lost.ended(("t", "w"), "sse", 1.0)
    lost.ended(("t", "w"), "websocket", 2.0)
    assert lost.taken_up(("other", "w"), 3.0) == ""
    assert lost.taken_up(("t", "w"), 3.0) == "websocket"
    assert lost.taken_up(("t", "w"), 3.0) == ""


def test_a_poll_much_later_is_another_client() -> None:
    lost = Lost()
    lost.ended(("t", "w"), "sse", 1.0)
    assert lost.taken_up(("t", "w"), 1.1 + WITHIN_S) == ""


def test_what_is_kept_is_bounded() -> None:
    lost = Lost()
    for number in range(KEPT + 5):
        lost.ended(("t", str(number)), "sse", 0.0)
    assert lost.taken_up(("t", "4"), 1.0) == ""
    assert lost.taken_up(("t", "5"), 1.0) == "sse"


@pytest.mark.parametrize("then", ["w", "other"])
async def test_a_client_that_loses_its_socket_and_polls_is_counted(then: str) -> None:
    async with world() as edge:
        edge.chat.utter("local", "w", "one")
        async with connected(edge, "world=w&cursor=0") as socket:
            await socket.next()
        await edge.client.get(f"/v1/events?world={then}&cursor=0")
        await edge.client.get(f"/v1/events?world={then}&cursor=1")
        counted = (await edge.client.get("/metrics")).text
    assert f'earshot_fallbacks_total{{transport="websocket"}} {1.0 if then == "w" else 0.0}' in counted
