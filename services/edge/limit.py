"""How many may be worked on at once, found out while running: fewer when it takes too long, else more. Pure.

Additive increase, multiplicative decrease (Chiu and Jain 1989), by a delay that grows with the work in progress. A
fixed number is either too small for a fast machine or lets a slow one fall so far behind that every answer is late.
"""

from __future__ import annotations

# Never fewer: one game's requests and a pause of the machine must not be taken for overload.
# Most of a process's throughput is reached with so many, because what waits together is worked on together.
LEAST = 32
FEWER = 0.75
MORE = 0.5
# When the limit was not reached it says nothing about the load, and is forgotten.
FORGET = 1.1
# Weight of the newest look: a late one is a pause of the machine, half a second of them is overload.
NEWEST = 0.05


class Limit:
    """A bound that moves between LEAST (or `most`, when that is less) and `most`."""

    def __init__(self, most: int, delay_max_s: float) -> None:
        self._most = float(most)
        self._least = float(min(LEAST, most))
        self._delay_max_s = delay_max_s
        self._value = float(most)
        self._delay_s = 0.0

    @property
    def value(self) -> int:
        return int(self._value)

    def look(self, delay_s: float, used: int) -> None:
        """Learn from the time since the last look.

        delay_s: the delay seen. used: the most that was in progress at once.
        """
        self._delay_s += NEWEST * (delay_s - self._delay_s)
        if self._delay_s > self._delay_max_s:
            self._value = max(self._least, min(self._value, used) * FEWER)
        elif used >= self.value:
            self._value = min(self._most, self._value + MORE)
        else:
            self._value = min(self._most, self._value * FORGET)
