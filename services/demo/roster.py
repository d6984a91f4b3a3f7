"""`earshot import-roster FILE`: NPC profiles, locations and players from a JSON file into a running Earshot.

The file is {"npcs": [{"id", "display_name", ...}], "locations": [{"slug", "coordinates"}], "players": [{"id", ...}]}.
Unknown keys pass through; what the server does not know it ignores.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from random import Random
from typing import Any, Final

import httpx

from services.demo.api import ApiError, Away, check_url, delays, headers_for, may_use_proxy, raise_for
from services.demo.frame import encode
from services.demo.terminal import clean

URL: Final = "http://127.0.0.1:8080"
KINDS: Final = ("npcs", "locations", "players")
# What names an item of each kind, and what else it cannot do without.
NAMED_BY: Final = {"npcs": "id", "locations": "slug", "players": "id"}
NEEDED: Final = {"npcs": ("display_name",), "locations": ("coordinates",), "players": ()}
FILE_MOST: Final = 64 * 1024 * 1024
# A request stays well below the server's limit on bodies; a bigger roster goes in several.
REQUEST_MOST: Final = 256 * 1024
PROBLEMS_SHOWN: Final = 20
CALL_S: Final = 15.0
# For a server that is just starting.
PATIENCE_S: Final = 10.0


class RosterError(Exception):
    """The file or the server does not allow the import; one line per problem."""


@dataclass(frozen=True, slots=True)
class Imported:
    """What the server took, and which parts it refused: (path, reason)."""

    npcs: int = 0
    locations: int = 0
    players: int = 0
    refused: tuple[tuple[str, str], ...] = ()


def import_roster(
    path: str | Path,
    url: str = URL,
    key: str = "",
    *,
    transport: httpx.BaseTransport | None = None,
    sleep: Callable[[float], None] = time.sleep,
) -> Imported:
    """Send a roster file to `url`. Raises RosterError, with nothing sent when the file is broken."""
    roster = load(path)
    try:
        base, headers = check_url(url), headers_for(key)
    except ApiError as error:
        raise RosterError(str(error)) from None
    done = Imported()
    with httpx.Client(
        base_url=base, headers=headers, timeout=CALL_S, transport=transport, trust_env=may_use_proxy(base)
    ) as client:
        for part in parts(roster):
            try:
                done = _add(done, part, _put(client, part, sleep))
            except ApiError as error:
                sent = done.npcs + done.locations + done.players
                before = f" (after {sent} items were taken)" if sent else ""
                raise RosterError(f"{base}: {error}{before}") from None
    return done


def load(path: str | Path) -> dict[str, list[Any]]:
    """Read and check a roster file. Raises RosterError."""
    try:
        with Path(path).open("rb") as file:
            raw = file.read(FILE_MOST + 1)
    except OSError as error:
        raise RosterError(f"{path}: {error.strerror or 'cannot be read'}") from None
    if len(raw) > FILE_MOST:
        raise RosterError(f"{path}: larger than {FILE_MOST // 2**20} MiB")
    try:
        value = json.loads(raw.decode("utf-8-sig"))
    except UnicodeDecodeError as error:
        raise RosterError(f"{path}: not UTF-8 (byte {error.start})") from None
    except json.JSONDecodeError as error:
        raise RosterError(f"{path}: not JSON: {error.msg}, line {error.lineno}, column {error.colno}") from None
    except (RecursionError, ValueError):
        raise RosterError(
            f"{path}: not JSON that can be read: nested too deeply, or a number with too many digits"
        ) from None
    found = list(problems(value))
    if found:
        more = [f"and {len(found) - PROBLEMS_SHOWN} more"] if len(found) > PROBLEMS_SHOWN else []
        raise RosterError("\n".join([f"{path}: nothing was sent, because of", *found[:PROBLEMS_SHOWN], *more]))
    # {} is what some tools write for an empty list.
    return {kind: value.get(kind) or [] for kind in KINDS}


def problems(value: object) -> Iterator[str]:
    """Say what keeps a parsed file from being a roster, item by item; nothing when it is one."""
    if not isinstance(value, Mapping):
        yield 'the file must hold one object: {"npcs": [...], "locations": [...], "players": [...]}'
        return
    if not any(value.get(kind) for kind in KINDS):
        yield "the file holds no npcs, locations or players"
    for kind in KINDS:
        items = value.get(kind)
        if items in (None, {}):
            continue
        if not isinstance(items, list):
            yield f"{kind}: must be a list"
            continue
        seen: set[str] = set()
        for number, item in enumerate(items):
            yield from _item_problems(kind, f"{kind}[{number}]", item, seen)


def parts(roster: Mapping[str, Sequence[Any]]) -> Iterator[dict[str, list[Any]]]:
    """Cut a roster into requests of a bounded size, in order."""
    part: dict[str, list[Any]] = {kind: [] for kind in KINDS}
    size = 0
    for kind in KINDS:
        for item in roster[kind]:
            bytes_ = len(encode(item)) + 1
            if size and size + bytes_ > REQUEST_MOST:
                yield part
                part, size = {kind: [] for kind in KINDS}, 0
            part[kind].append(item)
            size += bytes_
    if size:
        yield part


def main(argv: Sequence[str] | None = None) -> int:
    """`earshot import-roster`. 0 = all taken, 1 = something refused or failed, with the reason."""
    parser = argparse.ArgumentParser(prog="earshot import-roster", description="Load NPCs, locations and players.")
    parser.add_argument("file", metavar="FILE", help="JSON; services/demo/tavern.json is a sample")
    parser.add_argument("--url", default=URL, help=f"base URL of the edge (default {URL})")
    parser.add_argument("--key", default=os.environ.get("EARSHOT_KEY", ""), help="API key (default $EARSHOT_KEY)")
    chosen = parser.parse_args(argv)
    try:
        done = import_roster(chosen.file, chosen.url, chosen.key)
    except RosterError as error:
        print(f"earshot import-roster: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 130
    print(f"Taken: {done.npcs} NPCs, {done.locations} locations, {done.players} players.")
    for path, reason in done.refused:
        print(f"Refused: {path}: {reason}", file=sys.stderr)
    return 1 if done.refused else 0


def _item_problems(kind: str, path: str, item: object, seen: set[str]) -> Iterator[str]:
    if not isinstance(item, Mapping):
        yield f"{path}: must be an object"
        return
    name = NAMED_BY[kind]
    id = item.get(name)
    if isinstance(id, bool) or not isinstance(id, str | int) or id == "":
        yield f"{path}: needs {name!r}"
    elif str(id) in seen:
        yield f"{path}: {name!r} is there twice"
    else:
        seen.add(str(id))
    for needed in NEEDED[kind]:
        if item.get(needed) in (None, ""):
            yield f"{path}: needs {needed!r}"
    coordinates = item.get("coordinates")
    if kind == "locations" and coordinates not in (None, "") and not _is_point(coordinates):
        yield f"{path}: 'coordinates' must be [x, y, z] or {{x, y, z}}, finite numbers"
    if not _is_json(item):
        yield f"{path}: holds a number that JSON does not have (NaN or Infinity)"


def _is_point(value: object) -> bool:
    if isinstance(value, Mapping):
        value = [value.get(axis) for axis in "xyz"]
    return isinstance(value, list) and len(value) == 3 and all(_is_coordinate(one) for one in value)


def _is_coordinate(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and abs(value) < 1e9 and math.isfinite(value)


def _is_json(item: object) -> bool:
    try:
        json.dumps(item, allow_nan=False)
    except ValueError:
        return False
    return True


def _put(client: httpx.Client, part: dict[str, list[Any]], sleep: Callable[[float], None]) -> Mapping[str, Any]:
    """PUT with patience: a roster is replaced by id, so sending it again is safe."""
    waited = 0.0
    for delay in delays(Random(0)):
        try:
            answer = _put_once(client, part)
        except Away as error:
            wait = max(delay, error.retry_after)
            if waited + wait > PATIENCE_S:
                raise
            waited += wait
            sleep(wait)
        else:
            return answer
    raise AssertionError("delays never end")


def _put_once(client: httpx.Client, part: dict[str, list[Any]]) -> Mapping[str, Any]:
    try:
        answer = client.put("/v1/npcs", content=encode(part))
    except httpx.RequestError as error:
        raise Away(f"cannot be reached ({type(error).__name__})") from None
    raise_for(answer)
    try:
        body = answer.json()
    except ValueError:
        body = None
    if not isinstance(body, Mapping):
        raise ApiError("the answer is not a JSON object: is this an Earshot?")
    return body


def _add(done: Imported, part: Mapping[str, Sequence[Any]], answer: Mapping[str, Any]) -> Imported:
    refusals = answer.get("refused")
    refused = [item for item in refusals if isinstance(item, Mapping)] if isinstance(refusals, list) else []

    def taken(kind: str) -> int:
        said = answer.get(kind)
        return said if isinstance(said, int) else len(said) if isinstance(said, list) else len(part[kind])

    return Imported(
        done.npcs + taken("npcs"),
        done.locations + taken("locations"),
        done.players + taken("players"),
        (*done.refused, *((clean(item.get("path")), clean(item.get("reason"))) for item in refused)),
    )
