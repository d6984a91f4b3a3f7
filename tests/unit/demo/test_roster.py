"""`earshot import-roster`: what is sent, and what a person is told when it cannot be."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import httpx
import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.demo import roster
from services.demo.api import delays
from services.demo.roster import Imported, RosterError, import_roster, load, main, parts, problems

URL = "http://earshot.test"
NPC = {"id": "mira", "display_name": "Mira"}


def file_of(folder: Path, value: object) -> Path:
    path = folder / "roster.json"
    if isinstance(value, bytes):
        path.write_bytes(value)
    else:
        path.write_text(value if isinstance(value, str) else json.dumps(value))
    return path


class Server:
    """What PUT /v1/npcs does, with answers to give first."""

    def __init__(self, *first: httpx.Response, refused: tuple[dict[str, str], ...] = ()) -> None:
        self.first, self.refused = list(first), refused
        self.requests: list[httpx.Request] = []

    @property
    def transport(self) -> httpx.MockTransport:
        return httpx.MockTransport(self._answer)

    def _answer(self, request: httpx.Request) -> httpx.Response:
        assert (request.method, request.url.path) == ("PUT", "/v1/npcs")
        self.requests.append(request)
        if self.first:
            return self.first.pop(0)
        body = json.loads(request.content)
        taken = {kind: len(body[kind]) for kind in roster.KINDS}
        return httpx.Response(200, json={**taken, "roster_version": 1, "refused": list(self.refused)})


def test_a_roster_is_sent_as_it_is(tmp_path: Path) -> None:
    npc = {**NPC, "persona": "You are Mira.", "something_new": [1]}
    place = {"slug": "bar", "name": "the bar", "coordinates": {"x": 1, "y": 2, "z": 3}}
    player = {"id": 962483389, "name": "Ravi"}
    server = Server()
    path = file_of(tmp_path, {"npcs": [npc], "locations": [place], "players": [player], "comment": "ignored"})
    assert import_roster(path, URL, "ek_x", transport=server.transport) == Imported(1, 1, 1)
    (request,) = server.requests
    assert json.loads(request.content) == {"npcs": [npc], "locations": [place], "players": [player]}
    assert request.headers["authorization"] == "Bearer ek_x"


def test_the_sample_can_be_imported() -> None:
    sample = Path(roster.__file__).parent / "tavern.json"
    assert import_roster(sample, URL, transport=Server().transport) == Imported(8, 12, 5)


def test_empty_maps_stand_for_empty_lists(tmp_path: Path) -> None:
    path = file_of(tmp_path, {"npcs": [NPC], "locations": {}, "players": None})
    assert import_roster(path, URL, transport=Server().transport) == Imported(1, 0, 0)


def test_what_the_server_refuses_is_named(tmp_path: Path) -> None:
    server = Server(refused=({"path": "npcs[mira].aliases", "reason": "TOO_LONG"},))
    done = import_roster(file_of(tmp_path, {"npcs": [NPC]}), URL, transport=server.transport)
    assert done.refused == (("npcs[mira].aliases", "TOO_LONG"),)


def test_a_big_roster_goes_in_several_requests_and_loses_nothing(tmp_path: Path) -> None:
    npcs = [{"id": f"n{i}", "display_name": f"N{i}", "persona": "x" * 8000} for i in range(100)]
    server = Server()
    done = import_roster(file_of(tmp_path, {"npcs": npcs}), URL, transport=server.transport)
    assert done.npcs == 100
    assert len(server.requests) > 2
    assert all(len(request.content) <= roster.REQUEST_MOST + 100 for request in server.requests)
    assert [npc for request in server.requests for npc in json.loads(request.content)["npcs"]] == npcs


@given(st.lists(st.integers(0, 200_000), max_size=8), st.lists(st.integers(0, 300_000), max_size=3))
def test_parts_hold_everything_in_order(npcs: list[int], players: list[int]) -> None:
    whole = {"npcs": ["x" * size for size in npcs], "locations": [], "players": ["y" * size for size in players]}
    cut = list(parts(whole))
    for kind, items in whole.items():
        assert [item for part in cut for item in part[kind]] == items
    assert all(any(part.values()) for part in cut)


@pytest.mark.parametrize(
    ("content", "told"),
    [
        ("", "not JSON: Expecting value, line 1, column 1"),
        ('{"npcs": [}', "not JSON: Expecting value, line 1, column 11"),
        (b"\xff\xfe{}", "not UTF-8"),
        ("[" * 100_000, "nested too deeply"),
        ('{"npcs": [{"id": ' + "9" * 5000 + "}]}", "too many digits"),
        ("[]", "must hold one object"),
        ("{}", "holds no npcs"),
        ({"npcs": "Mira"}, "npcs: must be a list"),
        ({"npcs": ["Mira"]}, r"npcs\[0\]: must be an object"),
        ({"npcs": [NPC, {"display_name": "Bram"}]}, r"npcs\[1\]: needs 'id'"),
        ({"npcs": [{"id": "mira"}]}, r"npcs\[0\]: needs 'display_name'"),
        ({"npcs": [{"id": True, "display_name": "x"}]}, r"npcs\[0\]: needs 'id'"),
        ({"npcs": [NPC, NPC]}, r"npcs\[1\]: 'id' is there twice"),
        ({"locations": [{"slug": "bar"}]}, r"locations\[0\]: needs 'coordinates'"),
        ({"locations": [{"slug": "bar", "coordinates": [1, 2]}]}, r"locations\[0\]: 'coordinates' must be"),
        ({"locations": [{"slug": "bar", "coordinates": {"x": 1}}]}, r"locations\[0\]: 'coordinates' must be"),
        ('{"locations": [{"slug": "bar", "coordinates": [1, 2, NaN]}]}', "'coordinates' must be"),
        ('{"npcs": [{"id": "m", "display_name": "M", "talkativeness": Infinity}]}', "a number that JSON does not have"),
        ({"players": [{"name": "Ravi"}]}, r"players\[0\]: needs 'id'"),
    ],
)
def test_a_broken_file_is_told_and_nothing_is_sent(tmp_path: Path, content: object, told: str) -> None:
    server = Server()
    with pytest.raises(RosterError, match=told):
        import_roster(file_of(tmp_path, content), URL, transport=server.transport)
    assert server.requests == []


def test_many_problems_are_listed_up_to_a_bound(tmp_path: Path) -> None:
    with pytest.raises(RosterError) as caught:
        load(file_of(tmp_path, {"npcs": [{} for _ in range(50)]}))
    rows = str(caught.value).splitlines()
    assert len(rows) == roster.PROBLEMS_SHOWN + 2
    assert rows[-1] == "and 80 more"


json_values: st.SearchStrategy[Any] = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=6),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(["npcs", "locations", "players", "id", "slug", "coordinates"]), inner, max_size=4
        )
    ),
    max_leaves=8,
)


@given(json_values)
def test_whatever_is_in_the_file_there_is_an_answer(value: object) -> None:
    assert all(isinstance(problem, str) for problem in problems(value))


def test_a_file_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(RosterError, match="No such file"):
        load(tmp_path / "nothing.json")
    with pytest.raises(RosterError, match="Is a directory"):
        load(tmp_path)


@pytest.mark.parametrize(
    ("answer", "told"),
    [
        (httpx.Response(401, json={"error": {"reason": "UNAUTHENTICATED", "message": "no key"}}), "HTTP 401, UNAUTH"),
        (httpx.Response(413, json={"error": {"reason": "TOO_LARGE", "retryable": False}}), "HTTP 413, TOO_LARGE"),
        (httpx.Response(404, text="<html>"), "HTTP 404"),
        (httpx.Response(200, text="hello"), "is this an Earshot"),
        (httpx.Response(301, headers={"location": "https://elsewhere"}), "HTTP 301"),
    ],
)
def test_a_server_that_says_no(tmp_path: Path, answer: httpx.Response, told: str) -> None:
    with pytest.raises(RosterError, match=told):
        import_roster(file_of(tmp_path, {"npcs": [NPC]}), URL, transport=Server(answer).transport)


def test_a_failure_half_way_says_what_was_taken(tmp_path: Path) -> None:
    npcs = [{"id": f"n{i}", "display_name": "N", "persona": "x" * 200_000} for i in range(2)]
    fine = httpx.Response(200, json={"npcs": 1, "locations": 0, "players": 0, "refused": []})
    server = Server(fine, httpx.Response(400, json={"error": {"reason": "BAD_INPUT"}}))
    with pytest.raises(RosterError, match="after 1 items were taken"):
        import_roster(file_of(tmp_path, {"npcs": npcs}), URL, transport=server.transport)


def test_a_server_that_just_starts_is_waited_for(tmp_path: Path) -> None:
    waited: list[float] = []
    busy = httpx.Response(503, headers={"retry-after": "2"}, json={"error": {"reason": "NOT_READY", "retryable": True}})
    server = Server(busy, busy)
    path = file_of(tmp_path, {"npcs": [NPC]})
    assert import_roster(path, URL, transport=server.transport, sleep=waited.append).npcs == 1
    assert waited == [2.0, 2.0]


def test_patience_ends(tmp_path: Path) -> None:
    waited: list[float] = []

    def refuse(request: httpx.Request) -> httpx.Response:
        raise httpx.ConnectError("refused")

    with pytest.raises(RosterError, match=r"http://earshot.test: cannot be reached \(ConnectError\)"):
        import_roster(
            file_of(tmp_path, {"npcs": [NPC]}), URL, transport=httpx.MockTransport(refuse), sleep=waited.append
        )
    assert 0 < sum(waited) <= roster.PATIENCE_S


def test_tries_come_further_apart_up_to_a_bound() -> None:
    class Even:
        def uniform(self, low: float, high: float) -> float:
            return (low + high) / 2

    first = [delay for delay, _ in zip(delays(Even()), range(8), strict=False)]  # type: ignore[arg-type] # no chance
    assert first == [0.25, 0.5, 1, 2, 4, 5, 5, 5]


def test_the_command_says_what_was_taken(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    path = str(file_of(tmp_path, {"npcs": [NPC]}))
    asked: list[tuple[str, str, str]] = []

    def instead(file: str, url: str, key: str) -> Imported:
        asked.append((file, url, key))
        return Imported(1, 0, 0, (("players[7].name", "TOO_LONG"),) if url.endswith("9") else ())

    monkeypatch.setattr(roster, "import_roster", instead)
    assert main([path, "--key", "ek_x"]) == 0
    assert capsys.readouterr().out == "Taken: 1 NPCs, 0 locations, 0 players.\n"
    assert main([path, "--url", "http://127.0.0.1:9"]) == 1, "a script sees that something was refused"
    assert "Refused: players[7].name: TOO_LONG" in capsys.readouterr().err
    assert asked[0] == (path, "http://127.0.0.1:8080", "ek_x")


def test_the_command_fails_with_one_clear_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([str(tmp_path / "nothing.json")]) == 1
    error = capsys.readouterr().err
    assert error.startswith("earshot import-roster: ")
    assert "Traceback" not in error
