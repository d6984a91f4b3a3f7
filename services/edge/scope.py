"""The Scope page: one self-contained file, fed only by the public API.

Its policy allows the page's own script and style by hash and nothing else, so that text made by players can never run.
"""

from __future__ import annotations

import base64
import hashlib
import re
from pathlib import Path

from services.edge.answer import Answer, Headers
from services.edge.request import Request
from services.edge.routes import Route

PAGE = Path(__file__).with_name("scope.html")


class Scope:
    """The endpoint."""

    def __init__(self) -> None:
        text = PAGE.read_text(encoding="utf-8")
        self._answer = Answer(200, text.encode(), b"text/html; charset=utf-8", headers(text))

    def routes(self) -> list[Route]:
        return [Route("GET", "/", self.page, open=True)]

    async def page(self, _: Request) -> Answer:
        """The page."""
        return self._answer


def headers(page: str) -> Headers:
    """Security headers of a page with inline script and style."""
    policy = (
        "default-src 'none'; connect-src 'self'; img-src data:; base-uri 'none'; form-action 'none'; "
        f"frame-ancestors 'none'; script-src {hashes(page, 'script')}; style-src {hashes(page, 'style')}"
    )
    return ((b"content-security-policy", policy.encode()), (b"referrer-policy", b"no-referrer"))


def hashes(page: str, element: str) -> str:
    """CSP sources for the inline elements of one kind."""
    inline = re.findall(rf"<{element}>(.*?)</{element}>", page, re.DOTALL)
    digests = (base64.b64encode(hashlib.sha256(text.encode()).digest()).decode() for text in inline)
    return " ".join(f"'sha256-{digest}'" for digest in digests) or "'none'"
