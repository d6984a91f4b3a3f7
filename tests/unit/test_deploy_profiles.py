"""What the compose file adds by profile, resolved by the real binary; images that are not ours are not run here.

The command of redis is run by a real redis-server, and nginx's by a real nginx, in tests of their own.
"""

from __future__ import annotations

import copy
import json
import re
import shutil
import socket
import subprocess
import time
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import pytest

from services.common.settings import Settings
from services.common.shared import Shared
from tests.unit.test_deploy import ROOT, Config, compose

PROFILES = {
    "redis": {"redis"},
    "nginx": {"nginx"},
    "letta": {"letta"},
    "discord": {"discord"},
    "observability": {"prometheus", "grafana"},
    "setup": {"certs"},
}
OURS = {"discord", "certs"}
# Who may be reached from beyond this machine, and from it alone.
PUBLIC = {"nginx": ["443"]}
LOCAL = {"grafana": ["3000"]}
# Its Postgres starts as root.
UNCONFINED = {"letta"}


@cache
def _resolved(*profiles: str) -> str:
    result = compose(*(word for one in profiles for word in ("--profile", one)), "config", "--format", "json")
    assert (result.returncode, result.stderr) == (0, "")
    return result.stdout


@pytest.fixture
def added() -> Config:
    """Everything, and of it what the profiles add."""
    whole: Config = json.loads(_resolved(*PROFILES))
    plain = json.loads(_resolved())["services"]
    return {**whole, "services": {name: one for name, one in whole["services"].items() if name not in plain}}


@pytest.mark.parametrize("profile", PROFILES)
def test_a_profile_adds_what_it_says(profile: str) -> None:
    plain, more = (set(json.loads(_resolved(*one))["services"]) for one in ((), (profile,)))
    assert more - plain == PROFILES[profile]


def test_replicas_listen_everywhere_and_tell_the_others_where_they_are() -> None:
    """A service's name stands for all its containers: none can listen on it, and it leads nobody to one of them."""
    over = ROOT / "deploy" / "compose.replicas.yml"
    result = compose("--file", str(over), "--profile", "redis", "config", "--format", "json")
    assert (result.returncode, result.stderr) == (0, "")
    services = json.loads(result.stdout)["services"]
    ports = set()
    for room in ("cluster", "state", "sync", "chat"):
        environment = services[room]["environment"]
        settings = Settings(
            _env_file=None,
            store="redis://redis:6379/0",
            **{f"{room}_addr": environment[f"EARSHOT_{room.upper()}_ADDR"]},
        )
        assert settings.address(room).startswith("0.0.0.0:")
        assert "EARSHOT_ADVERTISE" not in environment
        assert "container_name" not in services[room]
        assert "hostname" not in services[room]
        told = Shared(settings, frozenset({room}), time.monotonic).address(room)
        assert told == f"{socket.gethostname()}:{settings.address(room).rpartition(':')[2]}"
        ports.add(told)
    assert len(ports) == 4


@pytest.mark.parametrize(
    ("address", "advertise", "told"),
    [
        ("10.0.0.7:50051", "", "10.0.0.7:50051"),
        ("0.0.0.0:50051", "state-2.example.org", "state-2.example.org:50051"),
        ("[::]:50051", "", f"{socket.gethostname()}:50051"),
    ],
)
def test_a_replica_is_reached_where_it_listens_unless_it_says_otherwise(
    address: str, advertise: str, told: str
) -> None:
    settings = Settings(_env_file=None, store="redis://127.0.0.1:1/0", state_addr=address, advertise=advertise)
    shared = Shared(settings, frozenset({"state"}), time.monotonic)
    assert (shared.address("state"), shared.address("edge")) == (told, "")


def wrong_images(config: Config) -> list[str]:
    """Ours are built; others have a version, so that what was read about is what runs."""
    wrong = []
    for name, service in config["services"].items():
        if name in OURS:
            wrong += [f"{name}: {service['image']} is not ours"] if not service["image"].endswith(":local") else []
        elif not re.search(r":v?\d+\.\d+", service["image"]):
            wrong.append(f"{name}: {service['image']} may be anything")
    return wrong


def wrong_confinement(config: Config) -> list[str]:
    """Nobody is root, writes beside volumes, or gains rights."""
    wrong = []
    for name, service in config["services"].items():
        if service.get("security_opt") != ["no-new-privileges:true"] or service.get("privileged"):
            wrong.append(f"{name}: may gain rights")
        if name in UNCONFINED:
            continue
        if service.get("read_only") is not True or service.get("cap_drop") != ["ALL"] or service.get("cap_add"):
            wrong.append(f"{name}: is not confined")
        if name not in OURS and not re.fullmatch(r"[1-9]\d*:\d+", str(service.get("user"))):
            wrong.append(f"{name}: runs as {service.get('user')}")
        for volume in service.get("volumes", ()):
            if volume["type"] == "bind" and not volume.get("read_only"):
                wrong.append(f"{name}: can write to {volume['source']}")
    return wrong


def wrong_ports(config: Config) -> list[str]:
    wrong = []
    for name, service in config["services"].items():
        for port in service.get("ports") or []:
            allowed = LOCAL if port.get("host_ip") == "127.0.0.1" else PUBLIC
            if port["published"] not in allowed.get(name, ()):
                wrong.append(f"{name}: {port}")
    return wrong


def wrong_reach(config: Config) -> list[str]:
    """What keeps data, or is retired, is on an inner network; only who must reach out does."""
    reach = {"nginx", "letta", "discord", "grafana"}
    return [
        f"{name}: reaches outside by {network}"
        for name, service in config["services"].items()
        for network in service.get("networks") or ()
        if not config["networks"][network].get("internal") and name not in reach
    ]


def wrong_files(config: Config) -> list[str]:
    """Directories of the repository that are mounted exist; the certificates are the user's own."""
    return [
        f"{name}: no {volume['source']}"
        for name, service in config["services"].items()
        for volume in service.get("volumes", ())
        if volume["type"] == "bind" and volume["target"] != "/etc/ssl/earshot" and not Path(volume["source"]).is_dir()
    ]


Plant = Callable[[dict[str, Any]], object]
CHECKS: dict[Callable[[Config], list[str]], tuple[Plant, ...]] = {
    wrong_images: (
        lambda s: s["redis"].update(image="redis"),
        lambda s: s["nginx"].update(image="nginx:latest"),
        lambda s: s["discord"].update(image="python:3.11"),
    ),
    wrong_confinement: (
        lambda s: s["redis"].pop("read_only"),
        lambda s: s["nginx"].pop("cap_drop"),
        lambda s: s["prometheus"].update(user="0:0"),
        lambda s: s["letta"].pop("security_opt"),
        lambda s: s["grafana"]["volumes"][0].pop("read_only"),
    ),
    wrong_ports: (
        lambda s: s["redis"].update(ports=[{"published": "6379", "target": 6379}]),
        lambda s: s["grafana"]["ports"][0].pop("host_ip"),
        lambda s: s["letta"].update(ports=[{"host_ip": "127.0.0.1", "published": "8283", "target": 8283}]),
    ),
    wrong_reach: (lambda s: s["redis"]["networks"].update(outside=None),),
    wrong_files: (lambda s: s["prometheus"]["volumes"][0].update(source="/nowhere"),),
}


@pytest.mark.parametrize("check", CHECKS, ids=lambda check: check.__name__)
def test_what_profiles_add_is_right(check: Callable[[Config], list[str]], added: Config) -> None:
    assert check(added) == []


@pytest.mark.parametrize(
    ("check", "plant"),
    [
        pytest.param(check, plant, id=f"{check.__name__}-{number}")
        for check, plants in CHECKS.items()
        for number, plant in enumerate(plants)
    ],
)
def test_a_planted_defect_is_found(check: Callable[[Config], list[str]], plant: Plant, added: Config) -> None:
    planted = copy.deepcopy(added)
    plant(planted["services"])
    assert check(planted) != []


def test_the_edge_trusts_the_address_that_nginx_has() -> None:
    services = json.loads(_resolved("nginx"))["services"]
    edge, nginx = services["edge"], services["nginx"]
    assert edge["environment"]["EARSHOT_TRUSTED_PROXIES"] == nginx["networks"]["front"]["ipv4_address"]
    host, _, port = nginx["environment"]["UPSTREAM"].rpartition(":")
    assert (host, port) == (edge["networks"]["front"]["ipv4_address"], edge["environment"]["EARSHOT_LISTEN"][-4:])


def test_a_real_redis_takes_the_command(tmp_path: Path) -> None:
    if shutil.which("redis-server") is None:
        pytest.skip("redis-server is not installed (Debian: apt-get install redis-server)")
    command = json.loads(_resolved("redis"))["services"]["redis"]["command"]
    socket = f"{tmp_path}/r.sock"
    asked = ["redis-cli", "-s", socket, "config", "get"]
    with subprocess.Popen(
        [*command, "--port", "0", "--unixsocket", socket, "--dir", str(tmp_path)], stdout=subprocess.PIPE, text=True
    ) as server:
        try:
            assert server.stdout is not None
            assert any("ready to accept connections" in line.lower() for line in server.stdout)
            told = {
                name: subprocess.run([*asked, name], capture_output=True, text=True, timeout=10, check=True).stdout
                for name in ("appendonly", "appendfsync", "maxmemory-policy")
            }
        finally:
            server.terminate()
    assert [value.split()[-1] for value in told.values()] == ["yes", "always", "noeviction"]


def test_the_container_of_nginx_serves_the_name_and_asks_the_edge(tmp_path: Path) -> None:
    """The script that the container runs, with a directory in the place of nginx's own and without its last line."""
    script = (ROOT / "deploy" / "nginx" / "container.sh").read_text()
    body = script[: script.index("exec nginx")].replace("/etc/nginx/conf.d", str(tmp_path))
    (tmp_path / "earshot.conf").write_text((ROOT / "deploy" / "nginx" / "earshot.conf").read_text())
    source = tmp_path / "source"
    source.mkdir()
    shutil.copy(ROOT / "deploy" / "nginx" / "earshot.conf", source)
    (source / "container.sh").write_text(body)
    command = ["sh", str(source / "container.sh")]
    environment = {"PATH": "/usr/bin:/bin", "PUBLIC_NAME": "npc.example.org", "UPSTREAM": "10.213.77.3:8080"}
    subprocess.run(command, env=environment, check=True, timeout=10)
    written = (tmp_path / "earshot.conf").read_text()
    assert "server_name npc.example.org;" in written
    assert "server 10.213.77.3:8080 max_fails=0;" in written
    assert ("earshot.example.com" in written, "/var/log" in written) == (False, False)
    bare = subprocess.run(command, env={"PATH": "/usr/bin:/bin"}, capture_output=True, timeout=10, check=False)
    assert bare.returncode != 0
    assert b"the public name" in bare.stderr
