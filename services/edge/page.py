"""The pages: Scope at `/` and the contract's reader at `/docs`. Self-contained files, fed only by the public API.

Their policy allows a page's own script and style by hash and nothing else, so that text made by players can never run.
"""

from __future__ import annotations

import base64
import hashlib
import re
from pathlib import Path

from services.edge.answer import Answer, Headers
from services.edge.request import Request
from services.edge.routes import Route

HERE = Path(__file__).parent


class Pages:
    """The endpoints."""

    def __init__(self) -> None:
        self._scope = page(HERE / "scope.html")
        self._docs = page(HERE / "docs.html")

    def routes(self) -> list[Route]:
        return [Route("GET", "/", self.scope, open=True), Route("GET", "/docs", self.docs, open=True)]

    async def scope(self, _: Request) -> Answer:
        """The Scope page."""
        return self._scope

    async def docs(self, _: Request) -> Answer:
        """The contract for people."""
        return self._docs


def page(path: Path) -> Answer:
    """A page with the policy that fits it."""
    text = path.read_text(encoding="utf-8")
    return Answer(200, text.encode(), b"text/html; charset=utf-8", headers(text))


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
