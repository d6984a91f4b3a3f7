"""What a demo came to, told when it stops."""

from __future__ import annotations

from dataclasses import dataclass

from services.demo.telling import Tally


@dataclass(frozen=True, slots=True)
class Summary:
    """What a demo came to. `tally` counts what the API told; times in seconds, None = it never happened."""

    seconds: float
    snapshots: int
    messages: int
    undelivered: int
    tally: Tally
    first_reply_s: float | None

    @property
    def first_sentence_ms(self) -> float | None:
        """Mean time from a turn's start to its first sentence, as the server reports it."""
        count = self.tally.first_sentences
        return self.tally.first_sentence_ms / count if count else None

    def lines(self) -> tuple[str, ...]:
        """The closing summary."""
        tally = self.tally
        mean = self.first_sentence_ms
        rows = [
            ("messages", f"{self.messages} sent" + (f", {self.undelivered} undelivered" if self.undelivered else "")),
            ("turns", f"{tally.turns} spoken" + (f", {tally.failures} failed" if tally.failures else "")),
            ("silences", f"{tally.silences}" + (f", {tally.unheard} unheard" if tally.unheard else "")),
            ("runtime calls", f"{tally.runtime_calls}"),
            ("first reply", "none" if self.first_reply_s is None else f"after {self.first_reply_s:.1f} s"),
            ("first sentence", "none" if mean is None else f"{mean:.0f} ms into a turn on average"),
            ("refreshed", f"{tally.turns} times before a turn, {tally.pushes} times at once"),
            ("actions", f"{tally.actions}"),
            ("world", f"{self.snapshots} snapshots in {self.seconds:.0f} s"),
        ]
        return ("", *(f"  {name:<15} {value}" for name, value in rows))
