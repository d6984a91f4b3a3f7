"""Dashboards and rules before a real Prometheus that scrapes a running Earshot: every query answers, every metric is
shown, every alert fires and keeps quiet when it should.
"""

from __future__ import annotations

import contextlib
import importlib.util
import json
import re
import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
import yaml
from websockets.sync.client import connect

from services.common.telemetry import Metrics
from tests.e2e.stack import ROOT, Stack, free_ports

GRAFANA, PROMETHEUS = ROOT / "deploy" / "grafana", ROOT / "deploy" / "prometheus"
BOARDS = sorted((GRAFANA / "dashboards").glob("*.json"))
needs_prometheus = pytest.mark.skipif(shutil.which("promtool") is None, reason="needs Debian's prometheus")
# Of the interpreter and the process: looked at when memory or descriptors are in question.
NOT_SHOWN = {"process_virtual_memory_bytes", "process_start_time_seconds", "process_open_fds", "process_max_fds"}
SCRAPES, WAIT_S = 12, 90.0


def built(folder: Path) -> Any:
    """The folder's build.py as a module."""
    spec = importlib.util.spec_from_file_location(f"build_{folder.name}", folder / "build.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


def boards() -> list[dict[str, Any]]:
    return [json.loads(path.read_text(encoding="utf-8")) for path in BOARDS]


def queries() -> list[tuple[str, str]]:
    """(where, query) of every panel, with Grafana's variables as they are when everything is chosen."""
    found = []
    for board in boards():
        for panel in board["panels"]:
            for target in panel["targets"]:
                text = re.sub(r"\$(job|instance)\b", ".+", target["expr"]).replace("$__rate_interval", "20s")
                found.append((f"{board['title']}: {panel['title']}", text.replace("$__range", "60s")))
    return found


def test_what_is_committed_is_what_is_described() -> None:
    for name, text in built(GRAFANA).files().items():
        assert (GRAFANA / "dashboards" / name).read_text(encoding="utf-8") == text, "python deploy/grafana/build.py"
    assert {path.name for path in BOARDS} == set(built(GRAFANA).files())
    for name, text in built(PROMETHEUS).files().items():
        committed = (PROMETHEUS / name).read_text(encoding="utf-8")
        assert committed.partition("\n")[2] == text, "python deploy/prometheus/build.py"


@pytest.mark.parametrize("path", BOARDS, ids=lambda path: path.stem)
def test_a_dashboard_keeps_the_linter_s_rules(path: Path) -> None:
    """Rules of Grafana's dashboard-linter: data source and job variables, titles, units, intervals, selectors."""
    board = json.loads(path.read_text(encoding="utf-8"))
    names = {one["name"]: one for one in board["templating"]["list"]}
    assert names["datasource"]["type"] == "datasource"
    assert board["editable"] is False
    assert len({panel["id"] for panel in board["panels"]}) == len(board["panels"])
    assert len({panel["title"] for panel in board["panels"]}) == len(board["panels"])
    taken: set[tuple[int, int]] = set()
    for panel in board["panels"]:
        place = panel["gridPos"]
        assert (place["x"], place["y"]) not in taken
        taken.add((place["x"], place["y"]))
        assert panel["title"]
        assert panel["description"]
        assert panel["datasource"]["uid"] == "${datasource}"
        assert panel["fieldConfig"]["defaults"]["unit"]
        assert panel["targets"]
        for target in panel["targets"]:
            expr = target["expr"]
            assert target["legendFormat"]
            selectors = re.findall(r"(?:earshot|process)_\w+(?:{([^}]*)})?", expr)
            assert all('job=~"$job"' in one and 'instance=~"$instance"' in one for one in selectors), expr
            # A counter is shown as a rate, over Grafana's own interval.
            for counter in re.findall(r"\w+_(?:total|bucket|count)\b", expr):
                assert re.search(rf"(rate|increase)\({counter}", expr), expr
            for window in re.findall(r"\[([^]]+)\]", expr):
                assert window in ("$__rate_interval", "$__range"), expr


def test_every_metric_is_on_a_panel() -> None:
    shown = " ".join(query for _, query in queries())
    missing = []
    for family in Metrics().registry.collect():
        name = family.name + ("_total" if family.type == "counter" else "")
        if name in NOT_SHOWN or name.startswith("python_"):
            continue
        if not re.search(rf"\b{name}(_bucket|_count)?\b", shown):
            missing.append(name)
    assert missing == []


def test_every_alert_has_its_place_in_the_runbook() -> None:
    rules = yaml.safe_load((PROMETHEUS / "rules.yml").read_text(encoding="utf-8"))
    runbook = (ROOT / "docs" / "runbook.md").read_text(encoding="utf-8")
    headings = {
        re.sub(r"[^a-z0-9_]", "", line[2:].strip().lower()) for line in runbook.splitlines() if line[:2] == "##"
    }
    for group in rules["groups"]:
        for rule in group["rules"]:
            if "alert" in rule:
                page, _, anchor = rule["annotations"]["runbook_url"].partition("#")
                assert page == "docs/runbook.md"
                assert anchor in headings, rule["alert"]


@needs_prometheus
@pytest.mark.parametrize("window", ["1h", "6h", "3d"])
def test_alerts_fire_and_do_not_fire(window: str) -> None:
    done = subprocess.run(
        ["promtool", "test", "rules", f"rules_test_{window}.yml"], cwd=PROMETHEUS, capture_output=True, text=True,
        timeout=240,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout[-3000:]
    assert "SUCCESS" in done.stdout


@needs_prometheus
def test_the_configuration_is_one() -> None:
    for command in (["check", "rules", "rules.yml"], ["check", "config", "--syntax-only", "prometheus.yml"]):
        done = subprocess.run(["promtool", *command], cwd=PROMETHEUS, capture_output=True, text=True, timeout=60)
        assert done.returncode == 0, done.stdout + done.stderr


def visitors(stack: Stack, ended: threading.Event) -> Iterator[Callable[[], None]]:
    """What comes beside the tavern: a poll, a stream, a socket, a session, an existing game, and wrong requests."""

    def poll() -> None:
        with httpx.Client(base_url=stack.url, timeout=30, trust_env=False) as http:
            cursor = 0
            while not ended.is_set():
                answer = http.get("/v1/events", params={"world": "tavern", "cursor": cursor, "hold": 1})
                cursor = answer.json()["cursor"] if answer.status_code == 200 else cursor

    def stream() -> None:
        headers = {"accept": "text/event-stream"}
        with httpx.Client(base_url=stack.url, timeout=5, trust_env=False) as http:
            while not ended.is_set():
                with (
                    contextlib.suppress(httpx.HTTPError),
                    http.stream("GET", "/v1/events?world=tavern", headers=headers) as answer,
                ):
                    for number, _ in enumerate(answer.iter_lines()):
                        if number > 40 or ended.is_set():
                            break

    def socket() -> None:
        while not ended.is_set():
            with connect(f"ws{stack.url.removeprefix('http')}/v1/stream?world=tavern") as one:
                for _ in range(20):
                    with contextlib.suppress(TimeoutError):
                        one.recv(timeout=0.25)

    def game() -> None:
        with httpx.Client(base_url=stack.url, timeout=10, trust_env=False) as http:
            opened = http.post("/v1/sessions", json={"world": "session", "job": "j", "boot": "b"}).json()
            headers = {"authorization": f"Bearer {opened['token']}"}
            seq = 0
            while not ended.is_set():
                seq += 1
                metrics = {"requests": 3, "failures": 0, "throttled": 0, "expired": 0, "round_trip_ms": 40.0}
                http.post("/v1/sync", json={"seq": seq, "entities": [], "metrics": metrics}, headers=headers)
                http.post("/v1/snapshots", content=b"{", headers={"content-type": "application/json"})
                http.get("/v1/worlds/nowhere")
                ended.wait(0.5)

    yield from (poll, stream, socket, game)


@pytest.fixture(scope="module")
def prometheus(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A Prometheus that has scraped an Earshot under the tavern for a while."""
    folder = tmp_path_factory.mktemp("prometheus")
    (port,) = free_ports(1)
    url = f"http://127.0.0.1:{port}"
    model = subprocess.Popen(
        [sys.executable, "-m", "tests.fakes.fake_model", "--port", "0"], stdout=subprocess.PIPE, text=True, cwd=ROOT
    )
    assert model.stdout is not None
    environment = {
        "EARSHOT_TRACE_SAMPLE": "0.2",
        "EARSHOT_OPENAI_BASE_URL": model.stdout.readline().strip(),
        "EARSHOT_OPENAI_API_KEY": "sk-test-canary",
    }
    with Stack(folder / "data", environment=environment) as stack:
        config = yaml.safe_load((PROMETHEUS / "prometheus.yml").read_text(encoding="utf-8"))
        config["global"] = {"scrape_interval": "1s", "evaluation_interval": "1s"}
        config["rule_files"] = [str(PROMETHEUS / "rules.yml")]
        config["scrape_configs"][0]["static_configs"] = [{"targets": [stack.url.removeprefix("http://")]}]
        (folder / "prometheus.yml").write_text(yaml.safe_dump(config), encoding="utf-8")
        server = subprocess.Popen(
            ["prometheus", f"--config.file={folder / 'prometheus.yml'}", f"--storage.tsdb.path={folder / 'tsdb'}",
             f"--web.listen-address=127.0.0.1:{port}", "--enable-feature=exemplar-storage", "--log.level=error"],
            cwd=folder, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
        )  # fmt: skip
        demo = subprocess.Popen(
            [sys.executable, "-m", "services", "demo", "--url", stack.url, "--speed", "4"],
            cwd=ROOT, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
        )  # fmt: skip
        ended = threading.Event()
        others = [threading.Thread(target=one, daemon=True) for one in visitors(stack, ended)]
        try:
            for one in others:
                one.start()
            deadline = time.monotonic() + WAIT_S
            while time.monotonic() < deadline and scraped(url) < SCRAPES:
                time.sleep(0.5)
            assert scraped(url) >= SCRAPES, "Prometheus did not scrape"
            yield url
        finally:
            ended.set()
            for process in (demo, server, model):
                process.terminate()
                process.wait(20)
            model.stdout.close()
            for one in others:
                one.join(15)


def scraped(url: str) -> float:
    with contextlib.suppress(httpx.HTTPError, KeyError, IndexError, ValueError):
        found = ask(url, "sum(count_over_time(earshot_turns_total{phase='ended',reason='vocative'}[5m]))")
        return float(found[0]["value"][1])
    return 0.0


def ask(url: str, query: str) -> list[dict[str, Any]]:
    answer = httpx.get(f"{url}/api/v1/query", params={"query": query}, timeout=10, trust_env=False)
    told = answer.json()
    assert told["status"] == "success", f"{query}: {told.get('error')}"
    return list(told["data"]["result"])


@needs_prometheus
def test_every_panel_s_query_answers(prometheus: str) -> None:
    silent = [f"{where}: {query}" for where, query in queries() if not ask(prometheus, query)]
    assert silent == [], "\n".join(silent)


@needs_prometheus
def test_rules_are_healthy_and_promises_are_recorded(prometheus: str) -> None:
    told = httpx.get(f"{prometheus}/api/v1/rules", timeout=10, trust_env=False).json()["data"]["groups"]
    rules = [rule for group in told for rule in group["rules"]]
    assert len(rules) > 50
    assert [rule["name"] for rule in rules if rule["health"] == "err"] == []
    for promise in built(PROMETHEUS).PROMISES:
        assert ask(prometheus, f"earshot:{promise.name}:error_ratio_5m"), promise.name
    firing = [rule["name"] for rule in rules if rule.get("state") == "firing"]
    assert not {"EarshotDown", "EarshotNoticeBeforeItsRevision", "EarshotStoreFails", "EarshotBreakerOpen"} & set(
        firing
    )


@needs_prometheus
def test_measurements_link_to_traces(prometheus: str) -> None:
    parameters: dict[str, str | float] = {
        "query": "earshot_stage_duration_seconds_bucket", "start": time.time() - 300, "end": time.time() + 5,
    }  # fmt: skip
    told = httpx.get(f"{prometheus}/api/v1/query_exemplars", params=parameters, timeout=10, trust_env=False).json()
    exemplars = [one for series in told["data"] for one in series["exemplars"]]
    assert exemplars
    assert all(re.fullmatch(r"[0-9a-f]{32}", one["labels"]["trace_id"]) for one in exemplars)
