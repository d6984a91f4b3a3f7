"""A trace as a waterfall for terminals. Pure: traces in the words of `GET /traces`, text out."""

from __future__ import annotations

import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

NAME = 44
BAR = 46
BLOCKS = " ▏▎▍▌▋▊▉█"
RESET, BOLD, DIM, RED, CYAN, YELLOW = "\x1b[0m", "\x1b[1m", "\x1b[2m", "\x1b[31m", "\x1b[36m", "\x1b[33m"

Trace = Mapping[str, Any]


@dataclass(slots=True)
class Part:
    """A span with what hangs from it."""

    span: Mapping[str, Any]
    parts: list[Part] = field(default_factory=list)

    @property
    def start(self) -> int:
        return int(self.span["start_us"])

    @property
    def end(self) -> int:
        return self.start + int(self.span["duration_us"])


def tree(trace: Trace) -> Part:
    """The first span with the others below it, each under its parent, in order of their start."""
    parts = {span["id"]: Part(span) for span in trace["spans"]}
    root: Part | None = None
    for part in parts.values():
        above = parts.get(part.span.get("parent", ""))
        if above is not None:
            above.parts.append(part)
        elif root is None:
            root = part
    assert root is not None, "a trace has a first span"
    return root


def unattributed(trace: Trace) -> float:
    """Share of the trace's time that no stage accounts for.

    A stage accounts for its own time, which is what its parts leave, and a span without parts for all of it; what is
    left of any other span is a gap.
    """
    root = tree(trace)
    if root.end <= root.start:
        return 0.0
    covered = 0
    reached = root.start
    for start, end in sorted(_stages(root)):
        start, end = max(start, reached), min(end, root.end)
        if end > start:
            covered += end - start
            reached = end
    return 1 - covered / (root.end - root.start)


def _stages(part: Part) -> list[tuple[int, int]]:
    found = [interval for below in part.parts for interval in _stages(below)]
    if part.parts and not part.span.get("stage"):
        return found
    reached = part.start
    for below in sorted(part.parts, key=lambda one: one.start):
        found.append((reached, below.start))
        reached = max(reached, below.end)
    return [*found, (reached, part.end)]


def waterfall(trace: Trace, *, colour: bool = False) -> str:
    """Lines of one trace: its parts, when and how long they ran, which missed their budget."""
    root = tree(trace)
    total = max(root.end - root.start, *(part.end - root.start for part in _walk(root)), 1)
    when = time.strftime("%H:%M:%S", time.localtime(trace["at"]))
    head = f"{trace['name']}  {_ms(trace['duration_us'])}  {when}  trace {trace['trace_id'][:12]}"
    lines = [_paint(head, BOLD, colour)]
    links = root.span.get("links") or []
    if links:
        lines.append(_paint("  caused by " + ", ".join(one[:12] for one in links), DIM, colour))
    lines += _lines(root, "", "", total, root.start, colour)
    lines.append(_paint(f"  {unattributed(trace):.0%} of the time belongs to no stage", DIM, colour))
    return "\n".join(lines)


def _lines(part: Part, indent: str, below: str, total: int, zero: int, colour: bool) -> list[str]:
    span = part.span
    name = indent + _short(str(span["name"]))
    over = span.get("attributes", {}).get("earshot.left_ms", 0) < 0
    tint = RED if span.get("error") or over else CYAN if span.get("stage") else DIM
    line = f"  {name[:NAME]:{NAME}} {_paint(_bar(part.start - zero, part.end - part.start, total), tint, colour)}"
    notes = [_ms(span["duration_us"])]
    if over:
        notes.append(f"over its budget of {span['attributes']['earshot.budget_ms']:g} ms")
    if span.get("error"):
        notes.append(str(span["error"]))
    tokens = span.get("attributes", {}).get("gen_ai.usage.output_tokens")
    if tokens:
        notes.append(f"{tokens} tokens")
    found = [f"{line} {_paint('  '.join(notes), YELLOW if over else '', colour)}".rstrip()]
    for number, one in enumerate(part.parts):
        last = number == len(part.parts) - 1
        found += _lines(one, below + ("└ " if last else "├ "), below + ("  " if last else "│ "), total, zero, colour)
    return found


def _bar(start: int, length: int, total: int) -> str:
    """BAR characters with an eighth's resolution at the end; something is always seen."""
    first = min(int(start / total * BAR), BAR - 1)
    eighths = max(round(length / total * BAR * 8), 1)
    full, rest = divmod(eighths, 8)
    drawn = (BLOCKS[-1] * full + (BLOCKS[rest] if rest else ""))[: BAR - first]
    return (" " * first + drawn).ljust(BAR)


def _walk(part: Part) -> Iterable[Part]:
    yield part
    for below in part.parts:
        yield from _walk(below)


def _short(name: str) -> str:
    """An RPC without its package."""
    return name.rpartition(".")[2] if name.startswith("earshot.") else name


def _ms(us: float) -> str:
    return f"{us / 1000:.1f} ms" if us < 1e6 else f"{us / 1e6:.2f} s"


def _paint(text: str, code: str, colour: bool) -> str:
    return f"{code}{text}{RESET}" if colour and code and text.strip() else text


def page(traces: Sequence[Trace], *, colour: bool = False) -> str:
    """Several traces, the newest last: it is what people look at."""
    return "\n\n".join(waterfall(trace, colour=colour) for trace in reversed(traces))
