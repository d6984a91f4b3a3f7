"""`earshot bench` itself: names, usage, and what it says where there is no checkout."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from bench import catalogue
from bench.result import Result
from services.cli import bench
from services.cli.commands import main
from services.common.errors import BadInput


def test_an_unknown_bench_lists_those_that_exist(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["bench", "nope"]) == 1
    said = capsys.readouterr()
    assert all(name in said.err for name in catalogue.BENCHES)
    assert not said.out


def test_without_a_checkout_it_says_so(tmp_path: Path) -> None:
    (tmp_path / "bench").mkdir()
    with pytest.raises(bench.CheckoutNeeded, match="checkout"):
        bench.checkout(tmp_path)


@pytest.mark.parametrize("option", ["--seconds=0", "--seconds=-1", "--rounds=0", "--seconds=99999"])
def test_senseless_times_are_wrong_usage(option: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["bench", "cluster", option]) == 2
    assert "--seconds" in capsys.readouterr().err


def test_turns_needs_its_conversations(tmp_path: Path) -> None:
    with pytest.raises(BadInput, match="--corpus"):
        catalogue.run("turns", catalogue.Options())
    with pytest.raises(BadInput, match="no directory"):
        catalogue.run("turns", catalogue.Options(corpus=tmp_path / "absent"))


def test_every_bench_can_be_loaded() -> None:
    for name in catalogue.BENCHES.values():
        assert callable(__import__(name, fromlist=["run"]).run)


@pytest.fixture
def measured(monkeypatch: pytest.MonkeyPatch) -> list[catalogue.Options]:
    """A bench that measures nothing and remembers what it was asked."""
    asked: list[catalogue.Options] = []

    def run(name: str, options: catalogue.Options) -> list[dict[str, Any]]:
        asked.append(options)
        return [Result(f"of {name}", 2.0, "x", 1.0, peers={"peer": 1.0}).record()]

    monkeypatch.setattr(catalogue, "run", run)
    return asked


def test_json_is_one_object(measured: list[catalogue.Options], capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["bench", "ingest", "--json", "--seconds", "1.5", "--rounds", "2", "--profile"]) == 0
    answer = json.loads(capsys.readouterr().out)
    assert set(answer) == {"bench", "machine", "results"}
    assert answer["bench"] == "ingest"
    assert answer["results"] == [
        {"name": "of ingest", "value": 2.0, "unit": "x", "goal": 1.0, "ok": True, "peers": {"peer": 1.0}}
    ]
    assert measured == [catalogue.Options(1.5, 2, True)]


def test_people_get_a_table(measured: list[catalogue.Options], capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["bench", "ingest"]) == 0
    said = capsys.readouterr().out
    assert "of ingest" in said
    assert "peer 1" in said
    assert measured == [catalogue.Options()]
