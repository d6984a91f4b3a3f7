"""From what a model streams to what an NPC says: sentences without wrappers, or nothing when it passes.

Models imitate what they read: they answer in the JSON of the lines they were sent, put their name before a line, or
quote themselves. The words of PASS mean that the NPC declines.
"""

from __future__ import annotations

import json
import re

from services.sync.speech.sentences import SentenceSplitter

# Sentences and characters of one turn; a model that rambles is cut.
SENTENCES_MAX = 12
SPOKEN_MAX = 1200
# A wrapper that is not closed within this is text after all.
WRAPPER_MAX = 4000
_PASS = re.compile(r"^[\s\"'(*\[]*PASS[\s\"')*\].!]*$")
_STAGE = re.compile(r"\*[^*]{1,200}\*")


class ReplyReader:
    """Reads one reply. `passed` is true when the model declined and said nothing else."""

    def __init__(self, name: str) -> None:
        self._prefix = re.compile(rf"^\s*(?:\[?{re.escape(name)}\]?|me)\s*:\s*", re.IGNORECASE) if name else None
        self._splitter = SentenceSplitter()
        self._raw = ""
        self._open = True  # the head may still be a wrapper or a prefix
        self._head = len(name) + 6
        self._spoken = 0
        self._count = 0
        self._declined = False

    @property
    def passed(self) -> bool:
        return self._declined and self._count == 0

    @property
    def full(self) -> bool:
        """Enough was said; what follows is dropped."""
        return self._count >= SENTENCES_MAX or self._spoken >= SPOKEN_MAX

    def feed(self, text: str) -> list[str]:
        """Sentences that this piece completes."""
        if not self._open:
            return self._keep(self._splitter.feed(text))
        self._raw += text
        return self._begin(final=False)

    def finish(self) -> list[str]:
        """The rest, at the end of the stream."""
        rest = self._begin(final=True) if self._open else []
        return rest + self._keep(self._splitter.flush())

    def _begin(self, *, final: bool) -> list[str]:
        head = self._raw.lstrip()
        if not head:
            return []
        if head[0] in "{[`" and len(head) < WRAPPER_MAX:
            said = _unwrapped(head)
            if said is None and not final:
                return []
            head = said if said is not None else head
        elif not final and len(head) < self._head:
            return []
        self._open = False
        if self._prefix is not None:
            head = self._prefix.sub("", head, count=1)
        self._raw = ""
        return self._keep(self._splitter.feed(head))

    def _keep(self, sentences: list[str]) -> list[str]:
        kept = []
        for sentence in sentences:
            if _PASS.match(sentence):
                self._declined = True
                continue
            spoken = _unquoted(" ".join(_STAGE.sub(" ", sentence).split()))
            if not any(char.isalnum() for char in spoken) or self.full:
                continue
            self._count += 1
            self._spoken += len(spoken)
            kept.append(spoken)
        return kept


def _unquoted(text: str) -> str:
    """Without quotes around the whole, or the half of a pair that a sentence's end cut off."""
    if text.count('"') == 1 or (text.startswith('"') and text.endswith('"') and text.count('"') == 2):
        text = text.replace('"', "")
    return text.strip("“”").strip()


def _unwrapped(text: str) -> str | None:
    """The words inside a JSON object or array of lines; None when it is not one, or not complete yet."""
    body = text.strip().removeprefix("```json").removeprefix("```").removesuffix("```").strip()
    try:
        value, end = json.JSONDecoder().raw_decode(body)
    except ValueError:
        return None
    rest = body[end:].strip()
    items = value if isinstance(value, list) else [value]
    said = []
    for item in items:
        if isinstance(item, dict):
            item = next((item[key] for key in ("text", "message", "content", "reply") if key in item), None)
        if not isinstance(item, str):
            return None
        said.append(item)
    return "\n".join([*said, rest]).strip()
