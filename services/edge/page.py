"""The pages: Scope at `/` with its files at `/scope/...`, and the contract's reader at `/docs`. Fed by the public API.

Their policy allows Earshot's own script and style and nothing else, so that text made by players can never run.
"""

from __future__ import annotations

import base64
import hashlib
import re
from pathlib import Path

from services.common.errors import NotFound
from services.edge.answer import Answer, Headers
from services.edge.request import Request
from services.edge.routes import Route

HERE = Path(__file__).parent
KINDS = {".html": b"text/html; charset=utf-8", ".css": b"text/css; charset=utf-8", ".svg": b"image/svg+xml",
         ".js": b"text/javascript; charset=utf-8"}  # fmt: skip
POLICY = (
    "default-src 'none'; connect-src 'self'; img-src 'self' data:; base-uri 'none'; form-action 'none'; "
    "frame-ancestors 'none'; script-src {script}; style-src {style}"
)


class Pages:
    """The endpoints. Files are read once, at the start."""

    def __init__(self) -> None:
        files = {path.name: path for path in sorted((HERE / "scope").iterdir()) if path.suffix in KINDS}
        self._files = {name: answer(path.read_bytes(), path.suffix) for name, path in files.items()}
        self._scope = self._files.pop("index.html")
        self._docs = inline_page(HERE / "docs.html")

    def routes(self) -> list[Route]:
        return [
            Route("GET", "/", self.scope, open=True),
            Route("GET", "/scope/{file}", self.file, open=True),
            Route("GET", "/docs", self.docs, open=True),
        ]

    async def scope(self, _: Request) -> Answer:
        """The Scope page."""
        return self._scope

    async def file(self, request: Request) -> Answer:
        """A file of the Scope page."""
        found = self._files.get(request.parameters[0])
        if found is None:
            raise NotFound("no such file", reason="UNKNOWN_PATH")
        return found

    async def docs(self, _: Request) -> Answer:
        """The contract for people."""
        return self._docs


def answer(content: bytes, suffix: str) -> Answer:
    """A file of the page; a page with the policy that lets it load its own files."""
    headers = security(POLICY.format(script="'self'", style="'self'")) if suffix == ".html" else ()
    return Answer(200, content, KINDS[suffix], headers)


def inline_page(path: Path) -> Answer:
    """A page in one file, with the policy that allows its own inline script and style by hash."""
    text = path.read_text(encoding="utf-8")
    policy = POLICY.format(script=hashes(text, "script"), style=hashes(text, "style"))
    return Answer(200, text.encode(), KINDS[".html"], security(policy))


def security(policy: str) -> Headers:
    """Security headers of a page."""
    return ((b"content-security-policy", policy.encode()), (b"referrer-policy", b"no-referrer"))


def hashes(page: str, element: str) -> str:
    """CSP sources for the inline elements of one kind."""
    inline = re.findall(rf"<{element}>(.*?)</{element}>", page, re.DOTALL)
    digests = (base64.b64encode(hashlib.sha256(text.encode()).digest()).decode() for text in inline)
    return " ".join(f"'sha256-{digest}'" for digest in digests) or "'none'"
