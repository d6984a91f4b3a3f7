"""The image and the compose file, as far as they can be checked without a container engine.

The real compose binary resolves the file; what comes out is compared with the command line and the settings. Every
check is a function from what it reads to what is wrong, and each is shown to fail on a planted defect.
Not run here: the build of the image, ownership of the volumes, restarts, the networks. deploy/README.md says the same.
"""

from __future__ import annotations

import copy
import importlib.util
import json
import os
import re
import shlex
import subprocess
import sys
import zipfile
from collections.abc import Callable, Iterable, Sequence
from functools import cache
from pathlib import Path
from typing import Any

import pytest

from services.cli.commands import _parser, parse_target
from services.common.settings import ROOMS, Settings
from tests.unit.house import setting_names

ROOT = Path(__file__).parents[2]
Config = dict[str, Any]
Instruction = tuple[str, str]


# -- compose -----------------------------------------------------------------------------------------------------------


def compose(*arguments: str, file: Path = ROOT / "docker-compose.yml") -> subprocess.CompletedProcess[str]:
    """The binary itself: the package's own wrapper loses the exit status. The caller's environment stays out."""
    package = importlib.util.find_spec("compose")
    assert package is not None
    assert package.origin is not None
    binary = Path(package.origin).parent / "docker-compose"
    return subprocess.run(
        [str(binary), "--file", str(file), *arguments],
        env={"PATH": os.environ["PATH"], "HOME": str(file.parent)},
        capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip


@cache
def _resolved() -> str:
    result = compose("config", "--format", "json")
    assert result.returncode == 0, result.stderr
    return result.stdout


@pytest.fixture
def config() -> Config:
    """The resolved compose file; a test may change its copy."""
    resolved: Config = json.loads(_resolved())
    return resolved


def parsed(arguments: Sequence[str]) -> Any | None:
    """What our own command line makes of arguments; None when it refuses them."""
    try:
        return _parser().parse_args(list(arguments))
    except SystemExit:
        return None


def wrong_commands(config: Config) -> list[str]:
    """Each room is one service, named after it, that runs exactly that room."""
    wrong = [f"no service for {room}" for room in ROOMS if room not in config["services"]]
    for name, service in config["services"].items():
        arguments = parsed(service["command"] or ())
        if arguments is None or "target" not in arguments:
            wrong.append(f"{name}: not a command of ours: {service['command']}")
        elif parse_target(arguments.target, Settings()) != (name,):
            wrong.append(f"{name}: runs {arguments.target}")
    return wrong


def wrong_environment(config: Config) -> list[str]:
    """Every name is a setting; a misspelt one would be ignored in silence."""
    known = setting_names()
    return [
        f"{service}: {name}"
        for service, definition in config["services"].items()
        for name in definition.get("environment") or {}
        if name not in known
    ]


def wrong_addresses(config: Config) -> list[str]:
    """A room's address is the same for all, and names one host: that room, on a network that all of them share."""
    wrong = []
    shared = set.intersection(*(set(service["networks"]) for service in config["services"].values()))
    for room in (room for room in ROOMS if room != "edge"):
        name = f"EARSHOT_{room.upper()}_ADDR"
        values = {service["environment"].get(name) for service in config["services"].values()}
        host, _, port = str(next(iter(values))).rpartition(":")
        networks = config["services"][room]["networks"]
        # A service's own name resolves on every network that it is on: only with one network does it name one address.
        hosts = {room} if len(networks) == 1 else set()
        for network in shared & set(networks):
            hosts.update((networks[network] or {}).get("aliases", ()))
        if len(values) != 1 or host not in hosts or not port.isdigit():
            wrong.append(f"{name}: {sorted(map(str, values))}, and {room} is called {sorted(hosts)}")
    return wrong


def wrong_health(config: Config) -> list[str]:
    """Each service asks its own room, without a shell, within the check's own time."""
    wrong = []
    for name, service in config["services"].items():
        test = service.get("healthcheck", {}).get("test") or ["NONE"]
        arguments = parsed(test[2:]) if test[:2] == ["CMD", "earshot"] else None
        if arguments is None or test[2] != "health" or arguments.target != name:
            wrong.append(f"{name}: {test}")
    return wrong


def wrong_ports(config: Config) -> list[str]:
    """The edge's port is published, on loopback unless somebody says otherwise, and no other."""
    wrong = []
    for name, service in config["services"].items():
        ports = service.get("ports") or []
        if name != "edge":
            wrong += [f"{name}: publishes {port['target']}" for port in ports]
            continue
        inside = service["environment"]["EARSHOT_LISTEN"].rpartition(":")[2]
        seen = [(port.get("host_ip"), str(port["target"])) for port in ports]
        if seen != [("127.0.0.1", inside)]:
            wrong.append(f"edge: listens on {inside}, publishes {seen}")
    return wrong


def wrong_confinement(config: Config) -> list[str]:
    """Nothing can write outside its volume, gain rights, or reach outside without need."""
    required = {"read_only": True, "cap_drop": ["ALL"], "security_opt": ["no-new-privileges:true"]}
    wrong = []
    for name, service in config["services"].items():
        wrong += [
            f"{name}: {key} is {service.get(key)}" for key, value in required.items() if service.get(key) != value
        ]
        if service.get("privileged") or service.get("cap_add") or service.get("user") in ("root", "0", "0:0"):
            wrong.append(f"{name}: has rights that it does not need")
        if not any(entry.startswith("/tmp") for entry in service.get("tmpfs", ())):
            wrong.append(f"{name}: no /tmp")
        mounted = [(volume["type"], volume["source"], volume["target"]) for volume in service.get("volumes", ())]
        if mounted != [("volume", name, "/data"), ("volume", "certs", "/certs")]:
            wrong.append(f"{name}: its data is not on a volume of its own: {mounted}")
            continue
        certs = service["volumes"][1]
        if certs.get("read_only") is not True or certs["volume"].get("subpath") != name:
            wrong.append(f"{name}: could change certificates, or read another room's key: {certs}")
        outside = [network for network in service["networks"] if not config["networks"][network].get("internal")]
        if outside and name not in ("edge", "sync"):
            wrong.append(f"{name}: reaches outside by {outside}")
    return wrong


def wrong_life(config: Config) -> list[str]:
    """Restarted after a failure, started after those that it calls, given the time that a clean stop takes."""
    calls = {"edge": {"state", "sync", "chat"}, "state": {"cluster"}, "sync": {"state"}, "chat": {"state", "sync"}}
    wrong = []
    for name, service in config["services"].items():
        waits = {
            other
            for other, how in (service.get("depends_on") or {}).items()
            if how["condition"] == "service_healthy" and how["required"]
        }
        if waits != calls.get(name, set()):
            wrong.append(f"{name}: waits for {sorted(waits)}")
        if service.get("restart") != "unless-stopped":
            wrong.append(f"{name}: restart is {service.get('restart')}")
        if service.get("stop_grace_period") != "15s":
            wrong.append(f"{name}: stop_grace_period is {service.get('stop_grace_period')}")
    return wrong


def wrong_images(config: Config) -> list[str]:
    """One image, built from this directory; the name is never looked for in a registry."""
    services = config["services"]
    builders = [name for name, service in services.items() if "build" in service]
    images = {service.get("image") for service in services.values()}
    wrong = [f"images {images}"] if len(images) != 1 else []
    wrong += [f"{len(builders)} services build it"] if len(builders) != 1 else []
    for name, service in services.items():
        if service.get("pull_policy") != ("build" if name in builders else "never"):
            wrong.append(f"{name}: pull_policy is {service.get('pull_policy')}")
    return wrong


Plant = Callable[[Config], object]
# Check -> defects planted in a copy of the resolved file, each of which it must find.
COMPOSE: dict[Callable[[Config], list[str]], tuple[Plant, ...]] = {
    wrong_commands: (
        lambda c: c["services"].pop("chat"),
        lambda c: c["services"]["chat"].update(command=["up", "--target", "state"]),
        lambda c: c["services"]["chat"].update(command=["up", "--rooms", "chat"]),
        lambda c: c["services"]["chat"].update(command=["health", "--target", "nobody"]),
        lambda c: c["services"]["chat"].update(command=None),
    ),
    wrong_environment: (lambda c: c["services"]["sync"]["environment"].update(EARSHOT_LETTA_URL="http://x"),),
    wrong_addresses: (
        lambda c: c["services"]["edge"]["environment"].update(EARSHOT_STATE_ADDR="state:50059"),
        lambda c: [s["environment"].update(EARSHOT_CHAT_ADDR="talk:50054") for s in c["services"].values()],
        lambda c: [s["environment"].update(EARSHOT_SYNC_ADDR="sync:50053") for s in c["services"].values()],
        lambda c: [s["environment"].pop("EARSHOT_STATE_ADDR") for s in c["services"].values()],
    ),
    wrong_health: (
        lambda c: c["services"]["sync"].pop("healthcheck"),
        lambda c: c["services"]["sync"]["healthcheck"].update(test=["CMD-SHELL", "earshot health --target sync"]),
        lambda c: c["services"]["sync"]["healthcheck"].update(test=["CMD", "earshot", "health", "--target", "chat"]),
        lambda c: c["services"]["sync"]["healthcheck"].update(test=["CMD", "earshot", "ready"]),
    ),
    wrong_ports: (
        lambda c: c["services"]["state"].update(ports=[{"target": 50051, "published": "50051"}]),
        lambda c: c["services"]["edge"]["ports"][0].update(host_ip="0.0.0.0"),
        lambda c: c["services"]["edge"]["ports"][0].update(target=8081),
        lambda c: c["services"]["edge"].update(ports=[]),
    ),
    wrong_confinement: (
        lambda c: c["services"]["state"].update(read_only=False),
        lambda c: c["services"]["state"].pop("cap_drop"),
        lambda c: c["services"]["state"].update(security_opt=[]),
        lambda c: c["services"]["state"].update(cap_add=["NET_ADMIN"]),
        lambda c: c["services"]["state"].update(user="root"),
        lambda c: c["services"]["state"].update(tmpfs=[]),
        lambda c: c["services"]["state"]["volumes"][0].update(source="chat"),
        lambda c: c["services"]["state"]["volumes"][1].pop("read_only"),
        lambda c: c["services"]["state"]["volumes"][1]["volume"].update(subpath="chat"),
        lambda c: c["services"]["state"]["volumes"][1]["volume"].pop("subpath"),
        lambda c: c["services"]["state"]["networks"].update(outside=None),
        lambda c: c["networks"]["rooms"].update(internal=False),
    ),
    wrong_life: (
        lambda c: c["services"]["edge"]["depends_on"]["chat"].update(condition="service_started"),
        lambda c: c["services"]["chat"].pop("depends_on"),
        lambda c: c["services"]["chat"].update(restart="no"),
        lambda c: c["services"]["chat"].pop("stop_grace_period"),
    ),
    wrong_images: (
        lambda c: c["services"]["chat"].update(image="earshot:other"),
        lambda c: c["services"]["chat"].update(build={"context": "."}),
        lambda c: c["services"]["edge"].pop("build"),
        lambda c: c["services"]["chat"].pop("pull_policy"),
    ),
}  # fmt: skip
PLANTS = [
    pytest.param(check, plant, id=f"{check.__name__}-{number}")
    for check, plants in COMPOSE.items()
    for number, plant in enumerate(plants)
]


def test_the_compose_file_resolves_without_a_word() -> None:
    result = compose("config", "--quiet")
    assert (result.returncode, result.stdout, result.stderr) == (0, "", "")


def test_a_compose_file_that_does_not_resolve_is_noticed(tmp_path: Path) -> None:
    broken = tmp_path / "docker-compose.yml"
    broken.write_text((ROOT / "docker-compose.yml").read_text().replace("image:", "imagge:"))
    assert compose("config", "--quiet", file=broken).returncode != 0


@pytest.mark.parametrize("check", COMPOSE, ids=lambda check: check.__name__)
def test_the_compose_file_is_right(check: Callable[[Config], list[str]], config: Config) -> None:
    assert check(config) == []


@pytest.mark.parametrize(("check", "plant"), PLANTS)
def test_a_planted_defect_is_found(check: Callable[[Config], list[str]], plant: Plant, config: Config) -> None:
    planted = copy.deepcopy(config)
    plant(planted)
    assert planted != config
    assert check(planted) != []


def test_every_check_has_a_planted_defect() -> None:
    assert all(COMPOSE.values())
    assert {check.__name__ for check in COMPOSE} == {
        name for name, value in globals().items() if name.startswith("wrong_") and callable(value)
    }


# -- the image ---------------------------------------------------------------------------------------------------------


def instructions(text: str) -> list[Instruction]:
    """(NAME, rest) of a Dockerfile, continued lines joined, comments dropped."""
    lines = [line for line in text.splitlines() if not line.lstrip().startswith("#")]
    joined = re.sub(r"\\\n", " ", "\n".join(lines))
    return [
        (name.upper(), rest.strip())
        for name, _, rest in (line.strip().partition(" ") for line in joined.splitlines())
        if name
    ]


def last_stage(steps: Sequence[Instruction]) -> list[Instruction]:
    start = max(index for index, (name, _) in enumerate(steps) if name == "FROM")
    return list(steps[start:])


def copied(steps: Iterable[Instruction]) -> list[str]:
    """Sources of COPY that come from the build's context."""
    return [
        source
        for name, rest in steps
        if name == "COPY" and not rest.startswith("--from")
        for source in shlex.split(rest)[:-1]
    ]


def image_defects(dockerfile: str, ignore: str, root: Path = ROOT) -> list[str]:
    """What is wrong with the Dockerfile, or with .dockerignore for it."""
    steps = instructions(dockerfile)
    final = last_stage(steps)
    of = {name: [rest for step, rest in final if step == name] for name, _ in final}
    defects = [f"COPY of nothing: {source}" for source in copied(steps) if not (root / source).exists()]
    allowed = {line[1:] for line in ignore.split() if line.startswith("!")}
    if "*" not in ignore.split():
        defects.append(".dockerignore lets everything in")
    if allowed != set(copied(steps)):
        defects.append(f".dockerignore lets in {sorted(allowed)}, copied is {sorted(copied(steps))}")
    user = (of.get("USER") or ["root"])[-1]
    if not re.fullmatch(r"[1-9]\d*:[1-9]\d*", user):
        defects.append(f"runs as {user}")  # a number: an orchestrator can then see that it is not root
    installs = [rest for name, rest in steps if name == "RUN" and "pip install" in rest]
    if not installs or "--require-hashes" not in installs[0] or "-r requirements.lock" not in installs[0]:
        defects.append("packages are not installed from the hash-pinned lock")
    pinned = "--require-hashes --only-binary :all: -r requirements-discord.lock"
    if any("--no-deps" not in rest and pinned not in rest for rest in installs[1:]):
        defects.append("an install beside the lock may bring packages")
    if sum(name == "FROM" for name, _ in steps) != 2 or any(":" not in rest for name, rest in steps if name == "FROM"):
        defects.append("not two stages with versions")
    if of.get("ENTRYPOINT") != ['["earshot"]'] or parsed(json.loads((of.get("CMD") or ["[]"])[0])) is None:
        defects.append("does not start earshot")
    health = re.sub(r"--\S+\s+", "", (of.get("HEALTHCHECK") or [""])[0])
    if health != 'CMD ["earshot", "health"]':
        defects.append(f"health is {health or 'not checked'}")
    environment = dict(pair.split("=", 1) for rest in of.get("ENV", ()) for pair in shlex.split(rest))
    for name, value in environment.items():
        if name.startswith("EARSHOT_") and name not in setting_names():
            defects.append(f"{name} is not a setting")
        if name in ("EARSHOT_DATA", "XDG_CACHE_HOME") and Path(value).parts[:2] != ("/", "data"):
            defects.append(f"{name} is outside the volume: {value}")
    if not {"EARSHOT_DATA", "XDG_CACHE_HOME"} <= set(environment) or of.get("VOLUME") != ["/data"]:
        defects.append("where data and compiled code go is not said")
    return defects


def _dockerfile() -> str:
    return (ROOT / "Dockerfile").read_text()


def _ignore() -> str:
    return (ROOT / ".dockerignore").read_text()


def test_the_dockerfile_is_right() -> None:
    assert image_defects(_dockerfile(), _ignore()) == []


@pytest.mark.parametrize(
    ("old", "new", "defect"),
    [
        ("COPY gen ./gen", "COPY generated ./generated", "COPY of nothing"),
        ("USER 10001:10001", "USER root", "runs as root"),
        ("USER 10001:10001", "", "runs as root"),
        ("USER 10001:10001", "USER earshot", "runs as earshot"),
        ("--require-hashes ", "", "hash-pinned"),
        ("-r requirements.lock", "-r requirements-dev.lock", "hash-pinned"),
        ("--no-deps ", "", "beside the lock"),
        ("FROM python:3.11-slim-bookworm\n", "FROM python\n", "stages"),
        (" AS build", " AS build\nFROM python:3.13", "stages"),
        ('ENTRYPOINT ["earshot"]', "ENTRYPOINT earshot", "does not start"),
        ('CMD ["up"]', 'CMD ["serve"]', "does not start"),
        ('"health"]', '"healthy"]', "health is"),
        ("EARSHOT_LOG_FORMAT", "EARSHOT_LOG_FORMATS", "not a setting"),
        ("EARSHOT_DATA=/data", "EARSHOT_DATA=/var/lib", "outside the volume"),
        ("XDG_CACHE_HOME=/data/cache", "XDG_CACHE_HOME=/var/cache", "outside the volume"),
        ("VOLUME /data", "", "is not said"),
    ],
)
def test_a_planted_defect_of_the_image_is_found(old: str, new: str, defect: str) -> None:
    assert old in _dockerfile()
    assert any(defect in found for found in image_defects(_dockerfile().replace(old, new), _ignore()))


@pytest.mark.parametrize(("old", "new"), [("*\n", "\n"), ("!gen\n", ""), ("!gen\n", "!gen\n!.git\n")])
def test_a_planted_defect_of_the_context_is_found(old: str, new: str) -> None:
    assert any(".dockerignore" in found for found in image_defects(_dockerfile(), _ignore().replace(old, new, 1)))


def missing_from_wheel(names: Iterable[str], root: Path = ROOT) -> list[str]:
    """Files of the packages that the wheel lacks: modules, and the data beside them."""
    inside = set(names)
    wanted = {
        str(path.relative_to(base))
        for base, package in ((root, "services"), (root / "gen", "earshot"))
        for path in (base / package).rglob("*")
        if path.is_file() and path.suffix != ".pyc" and "__pycache__" not in path.parts
    }
    return sorted(wanted - inside)


def test_what_is_copied_is_enough_to_install(tmp_path: Path) -> None:
    context = tmp_path / "context"
    context.mkdir()
    for source in copied(instructions(_dockerfile())):
        (context / source).symlink_to(ROOT / source)
    build = [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(tmp_path)]
    subprocess.run(build, cwd=context, check=True, capture_output=True, timeout=60)
    (wheel,) = tmp_path.glob("*.whl")
    with zipfile.ZipFile(wheel) as archive:
        names = archive.namelist()
    assert missing_from_wheel(names) == []
    assert missing_from_wheel(name for name in names if name != "earshot/type/v1/type_pb2.py") == [
        "earshot/type/v1/type_pb2.py"
    ]
