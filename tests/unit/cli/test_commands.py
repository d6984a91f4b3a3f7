"""The command line: a bare `demo` plays against what is there, or starts what it plays against."""

from __future__ import annotations

import socket

import pytest

from services.cli.commands import alone, main


def test_a_demo_without_an_earshot_starts_one(capsys: pytest.CaptureFixture[str]) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))  # bound and not listening: nobody answers there
        listen = f"127.0.0.1:{taken.getsockname()[1]}"
        assert alone(["demo"], lambda: listen) == ["up", "--demo"]
    assert f"Nothing listens on {listen}" in capsys.readouterr().err


def test_a_demo_plays_against_the_earshot_that_is_there() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        listen = f"127.0.0.1:{server.getsockname()[1]}"
        assert alone(["demo"], lambda: listen) == ["demo"]


@pytest.mark.parametrize("arguments", [[], ["up"], ["demo", "--url", "http://127.0.0.1:1"], ["health"]])
def test_whoever_says_more_gets_what_they_say_and_needs_no_settings(arguments: list[str]) -> None:
    def address() -> str:
        raise AssertionError("the settings were read")

    assert alone(arguments, address) == arguments


def test_help_is_given_although_a_setting_does_not_hold(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("EARSHOT_LEASE_S", "-1")
    with pytest.raises(SystemExit) as ended:
        main(["--help"])
    assert ended.value.code == 0
