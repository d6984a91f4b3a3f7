"""Who is within earshot, written the slow and obvious way: what the demo's tests measure a scenario with."""

from __future__ import annotations

import math
from collections.abc import Mapping

from services.demo.frame import Row

JOIN, LEAVE = 10.0, 12.0


def groups(rows: Mapping[str, Row], before: frozenset[frozenset[str]] = frozenset()) -> frozenset[frozenset[str]]:
    """Sets of two and more who hear each other: linked at 10 studs, or 12 when they were together before."""
    together = {id: group for group in before for id in group}
    rest, found = set(rows), set()
    while rest:
        group, edge = set(), [rest.pop()]
        while edge:
            one = edge.pop()
            group.add(one)
            linked = {two for two in rest if _linked(rows[one], rows[two], two in together.get(one, frozenset()))}
            rest -= linked
            edge.extend(linked)
        if len(group) > 1:
            found.add(frozenset(group))
    return frozenset(found)


def _linked(one: Row, two: Row, were: bool) -> bool:
    gap = math.dist((one.x, one.y, one.z), (two.x, two.y, two.z))
    return gap <= (LEAVE if were else JOIN)
