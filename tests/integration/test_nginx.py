"""deploy/nginx/earshot.conf as it is shipped, in a real nginx with a certificate of its own, before a real edge.

Only what a machine decides is replaced: ports, the certificate's place, the edge's address, where logs go.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import shutil
import ssl
import subprocess
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import InvalidStatus

from services.common.settings import Settings
from services.edge.admission import STRANGER_BURST
from services.edge.keys import KeyFile
from tests.integration.test_edge_http import Served, free_port, served, until

CONFIGURATION = Path(__file__).parents[2] / "deploy" / "nginx" / "earshot.conf"
NAME = "earshot.example.com"
TOOLS = ("nginx", "curl", "openssl")
# Debian keeps nginx where only root's PATH looks.
PATH = f"{os.environ.get('PATH', '')}:/usr/sbin"
MISSING = [tool for tool in TOOLS if shutil.which(tool, path=PATH) is None]

pytestmark = pytest.mark.skipif(
    bool(MISSING) and os.environ.get("CI") != "true", reason=f"needs the Debian packages {' '.join(MISSING)}"
)


def tool(name: str) -> str:
    found = shutil.which(name, path=PATH)
    assert found, f"CI installs what its tests need: {name} is missing"
    return found


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A directory with fullchain.pem and privkey.pem, made now."""
    folder = tmp_path_factory.mktemp("tls")
    subprocess.run(
        [tool("openssl"), "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes",
         "-keyout", folder / "privkey.pem", "-out", folder / "fullchain.pem", "-days", "1",
         "-subj", f"/CN={NAME}", "-addext", f"subjectAltName=DNS:{NAME}"],
        check=True, capture_output=True, timeout=30,
    )  # fmt: skip
    return folder


# What Debian's own nginx.conf says around it.
DEBIAN = """
sendfile on; tcp_nopush on; types_hash_max_size 2048; default_type application/octet-stream; gzip on;
ssl_protocols TLSv1 TLSv1.1 TLSv1.2 TLSv1.3; ssl_prefer_server_ciphers on;
"""


def localized(text: str, changes: dict[str, tuple[str, int]]) -> str:
    """The configuration with each old text, which must be there so often, as the new one."""
    for old, (new, count) in changes.items():
        assert text.count(old) == count, f"{old}: {text.count(old)} times"
        text = text.replace(old, new)
    return text


@dataclass(frozen=True)
class Reply:
    """What curl got."""

    status: int
    version: str
    headers: dict[str, str]
    body: bytes

    @property
    def reason(self) -> str:
        return str(json.loads(self.body)["error"]["reason"])


def reply_of(told: bytes, version: str) -> Reply:
    """Head and body as `curl --include` writes them."""
    head, _, content = told.partition(b"\r\n\r\n")
    status, *lines = head.decode().split("\r\n")
    headers = {name.lower(): value for name, _, value in (line.partition(": ") for line in lines)}
    return Reply(int(status.split()[1]), version, headers, content)


@dataclass(frozen=True)
class Front:
    """A running nginx and clients of it."""

    edge: Served
    port: int
    key: str
    certificate: Path
    logs: Path

    @property
    def context(self) -> ssl.SSLContext:
        return ssl.create_default_context(cafile=str(self.certificate / "fullchain.pem"))

    async def curl(self, path: str, *options: str, body: bytes = b"") -> bytes:
        """curl's output for a request by name, trusting only the test's certificate."""
        process = await asyncio.create_subprocess_exec(
            tool("curl"), "--silent", "--show-error", "--globoff", "--path-as-is", "--max-time", "40",
            "--cacert", self.certificate / "fullchain.pem", "--resolve", f"{NAME}:{self.port}:127.0.0.1", *options,
            f"https://{NAME}:{self.port}{path}",
            stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE,
        )  # fmt: skip
        try:
            told, complaint = await process.communicate(body)
        finally:
            if process.returncode is None:
                process.kill()
                await process.wait()
        assert process.returncode == 0, complaint.decode()
        return told

    async def ask(self, path: str, *options: str, body: bytes | None = None, key: str | None = None) -> Reply:
        """One request with the key, over HTTP/2."""
        if body is not None:
            options = ("--data-binary", "@-", "--header", "content-type: application/json", *options)
        secret = self.key if key is None else key
        authorization = ("--header", f"authorization: Bearer {secret}") if secret else ()
        told = await self.curl(
            path, "--http2", "--include", "--write-out", "\n%{http_version}", *authorization, *options, body=body or b""
        )
        told, _, version = told.rpartition(b"\n")
        return reply_of(told, version.decode())

    def socket(self, query: str, **options: Any) -> connect:
        return connect(
            f"wss://{NAME}:{self.port}/v1/stream?{query}", ssl=self.context, host="127.0.0.1", port=self.port,
            proxy=None, additional_headers={"authorization": f"Bearer {self.key}"}, **options,
        )  # fmt: skip


@asynccontextmanager
async def front(certificate: Path, folder: Path, **options: Any) -> AsyncIterator[Front]:
    """An edge with a key, and nginx before it."""
    key, _ = KeyFile(Settings(data=str(folder / "data"))).create("red", 1)
    async with served(data=str(folder / "data"), **options) as edge:
        port = free_port()
        async with running(configured([edge.port], port, certificate, folder), port):
            yield Front(edge, port, key, certificate, folder)


def configured(edges: Sequence[int], port: int, certificate: Path, folder: Path) -> list[str]:
    """Write the configuration for edges on these ports, let nginx check it, and return the command that starts it."""
    servers = "\n    ".join(f"server 127.0.0.1:{edge} max_fails=0;" for edge in edges)
    site = localized(
        CONFIGURATION.read_text(),
        {
            "listen 443 ": (f"listen 127.0.0.1:{port} ", 2),
            "server 127.0.0.1:8080 max_fails=0;": (servers, 1),
            "/etc/ssl/earshot/": (f"{certificate}/", 2),
            "/var/log/nginx/": (f"{folder}/", 2),
        },
    )
    (folder / "earshot.conf").write_text(site)
    spools = "".join(
        f"{kind}_temp_path {folder}/{kind};" for kind in ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")
    )
    main = folder / "nginx.conf"
    main.write_text(
        f"daemon off; worker_processes 1; pid {folder}/nginx.pid; error_log {folder}/main.log;\n"
        f"events {{ worker_connections 1024; }}\nhttp {{ {DEBIAN} {spools} include {folder}/earshot.conf; }}\n"
    )
    command = [tool("nginx"), "-e", str(folder / "main.log"), "-c", str(main)]
    checked = subprocess.run([*command, "-t", "-q"], capture_output=True, timeout=30)
    assert (checked.returncode, checked.stderr) == (0, b"")
    return command


@asynccontextmanager
async def running(command: list[str], port: int) -> AsyncIterator[None]:
    """nginx, from when it listens; ended by its own id."""
    process = await asyncio.create_subprocess_exec(*command)
    try:
        await listening(port)
        yield
    finally:
        process.terminate()
        await asyncio.wait_for(process.wait(), 10)


async def listening(port: int) -> None:
    for _ in range(500):
        with contextlib.suppress(OSError):
            _, writer = await asyncio.open_connection("127.0.0.1", port)
            writer.close()
            return
        await asyncio.sleep(0.01)
    raise AssertionError("nginx did not listen")


async def test_a_long_poll_over_http_2(certificate: Path, tmp_path: Path) -> None:
    async with front(certificate, tmp_path) as site:
        held = asyncio.create_task(site.ask("/v1/events?world=w&cursor=0&hold=20"))
        await until(lambda: site.edge.app.metrics.connections.labels("poll")._value.get() == 1)
        site.edge.chat.utter("red", "w", "Hello.")
        reply = await held
        assert (reply.status, reply.version) == (200, "2")
        assert [event["text"] for event in json.loads(reply.body)["events"]] == ["Hello."]
        assert reply.headers["strict-transport-security"] == "max-age=31536000"
        assert reply.headers["server"] == "nginx"
        empty = await site.ask("/v1/events?world=w&cursor=1&hold=0.2")
        assert (empty.status, empty.body) == (204, b"")


async def test_http_2_is_offered_and_old_tls_is_not(certificate: Path, tmp_path: Path) -> None:
    async with front(certificate, tmp_path) as site:
        context = site.context
        context.set_alpn_protocols(["h2", "http/1.1"])
        _, writer = await asyncio.open_connection("127.0.0.1", site.port, ssl=context, server_hostname=NAME)
        with contextlib.closing(writer):
            assert writer.get_extra_info("ssl_object").selected_alpn_protocol() == "h2"
            assert writer.get_extra_info("ssl_object").version() == "TLSv1.3"
        with pytest.raises(ssl.SSLError):
            await asyncio.open_connection("127.0.0.1", site.port, ssl=context, server_hostname="other.example.com")
        old = await site.ask("/healthz", "--http1.1", "--tls-max", "1.2", "--tlsv1.2")
        assert (old.status, old.version) == (200, "1.1")
        with pytest.raises(AssertionError, match=r"protocol version|no protocols available|unsupported protocol"):
            await site.ask("/healthz", "--tls-max", "1.1", "--tlsv1.0", "--ciphers", "DEFAULT@SECLEVEL=0")


async def test_other_names_reach_nothing(certificate: Path, tmp_path: Path) -> None:
    """An edge without keys would take a request for localhost as its own machine's."""
    async with front(certificate, tmp_path) as site:
        for host in ("localhost", "127.0.0.1", "evil.example"):
            assert (await site.ask("/v1/worlds", "--header", f"host: {host}")).status == 421
        assert (await site.ask("/v1/worlds")).status == 200


async def test_a_socket_passes_and_its_client_goes_on_by_polling(certificate: Path, tmp_path: Path) -> None:
    async with front(certificate, tmp_path) as site:
        site.edge.chat.utter("red", "w", "One.")
        async with site.socket("world=w&cursor=0", subprotocols=["earshot.json"]) as socket:
            assert socket.subprotocol == "earshot.json"
            assert [event["text"] for event in (await page(socket))["events"]] == ["One."]
            site.edge.chat.utter("red", "w", "Two.")
            second = await page(socket)
            assert [event["text"] for event in second["events"]] == ["Two."]
            await socket.send('{"type":"message","ref":"m","player_id":7,"text":"Hi"}')
            assert (await page(socket))["type"] == "said"
        site.edge.chat.utter("red", "w", "Three.")
        rest = await site.ask(f"/v1/events?world=w&cursor={second['cursor']}")
        assert [event["text"] for event in json.loads(rest.body)["events"]] == ["Three."]
        with pytest.raises(InvalidStatus) as refused:
            await site.socket("world=w&cursor=x")
        assert refused.value.response.status_code == 400


async def page(socket: ClientConnection) -> dict[str, Any]:
    async with asyncio.timeout(10):
        return dict(json.loads(await socket.recv()))


async def test_server_sent_events_are_not_held_back(certificate: Path, tmp_path: Path) -> None:
    async with front(certificate, tmp_path) as site:
        reader, writer = await asyncio.open_connection("127.0.0.1", site.port, ssl=site.context, server_hostname=NAME)
        lines = ("GET /v1/events?world=w&cursor=0 HTTP/1.1", f"host: {NAME}:{site.port}",
                 f"authorization: Bearer {site.key}", "accept: text/event-stream", "", "")  # fmt: skip
        with contextlib.closing(writer):
            writer.write("\r\n".join(lines).encode())
            async with asyncio.timeout(10):
                await reader.readuntil(b"retry: 1000\n\n")
                site.edge.chat.utter("red", "w", "Streamed.")
                assert b"Streamed." in await reader.readuntil(b"Streamed.")


async def test_bodies_are_bounded_and_the_next_request_is_served(certificate: Path, tmp_path: Path) -> None:
    async with front(certificate, tmp_path) as site:
        large = await site.ask("/v1/snapshots", body=b" " * (512 * 1024 + 1))
        assert (large.status, large.reason) == (413, "BODY_TOO_LARGE")
        assert large.headers["content-type"] == "application/json"
        assert site.edge.state.items == []
        whole = await site.ask("/v1/snapshots", body=b"{}" + b" " * (512 * 1024 - 2))
        assert whole.status == 200
        bomb = await site.ask("/v1/snapshots", "--header", "content-encoding: gzip", body=b"x")
        assert (bomb.status, bomb.reason) == (400, "BAD_GZIP")


async def test_too_many_requests_of_an_address_get_429_and_others_are_served(certificate: Path, tmp_path: Path) -> None:
    async with front(certificate, tmp_path) as site:
        answers = tmp_path / "answers"
        answers.mkdir()
        await site.curl(
            "/healthz?[1-1200]", "--no-globoff", "--http2", "--parallel", "--parallel-max", "100", "--include",
            "--output", f"{answers}/#1",
        )  # fmt: skip
        replies = [reply_of(one.read_bytes(), "2") for one in answers.iterdir()]
        refused = [one for one in replies if one.status == 429]
        assert len(replies) - len(refused) >= 200
        assert {one.status for one in replies} == {200, 429}
        assert {(one.reason, one.headers["retry-after"]) for one in refused} == {("RATE_LIMITED", "1")}
        assert (await site.ask("/healthz", "--interface", "127.0.0.2")).status == 200


@pytest.mark.parametrize("trusted", ["127.0.0.1", ""])
async def test_the_edge_takes_the_client_s_address_from_a_trusted_proxy_only(
    certificate: Path, tmp_path: Path, trusted: str
) -> None:
    """Wrong keys are counted by address: nginx's one, or each client's. What a client claims to be never counts."""
    async with front(certificate, tmp_path, trusted_proxies=trusted) as site:

        async def guess(*options: str) -> int:
            return (await site.ask("/v1/worlds", *options, key="wrong")).status

        claims = [("--header", f"x-forwarded-for: 198.51.100.{number}") for number in range(40)]
        guesses = await asyncio.gather(*(guess(*claim) for claim in claims))
        assert guesses.count(401) >= STRANGER_BURST
        assert guesses.count(429) > 0
        others = [await guess("--interface", f"127.0.0.{last}") for last in (2, 3, 4)]
        assert others == [401] * 3 if trusted else 429 in others
        assert (await site.ask("/v1/worlds")).status == 200


async def test_an_edge_without_keys_stays_closed_behind_a_proxy(certificate: Path, tmp_path: Path) -> None:
    async with served() as edge:
        port = free_port()
        async with running(configured([edge.port], port, certificate, tmp_path), port):
            site = Front(edge, port, "", certificate, tmp_path)
            reply = await site.ask("/v1/worlds")
            assert (reply.status, reply.reason) == (403, "KEYS_NEEDED")
            assert (await site.ask("/healthz")).status == 200


@pytest.mark.parametrize(
    "path",
    ["/metrics", "/metrics/", "//metrics", "/%6detrics", "/metrics?x=1", "/k/made-up/metrics", "/w/j/k/x/metrics//",
     "/k/a%2Fb/metrics", "/k/..%2fv1/metrics", "/./metrics", "/v1/../metrics", "/k/a/../b/metrics"],
)  # fmt: skip
async def test_metrics_are_not_public(certificate: Path, tmp_path: Path, path: str) -> None:
    async with front(certificate, tmp_path) as site:
        reply = await site.ask(path)
        assert (reply.status, reply.reason) == (404, "UNKNOWN_PATH")


async def test_no_key_is_logged_and_a_missing_edge_is_503(certificate: Path, tmp_path: Path) -> None:
    async with front(certificate, tmp_path) as site:
        assert (await site.ask(f"/k/{site.key}/v1/worlds", key="")).status == 200
        assert (await site.ask(f"/w/j/k/{site.key}/letta/v1/snapshot/game", body=b"{}", key="")).status == 200
        assert (await site.ask(f"/k/{site.key}/v1/players/962483389?key={site.key}", key="")).status == 405
        await site.edge.app.stop()
        gone = await site.ask(f"/k/{site.key}/v1/worlds", key="")
        assert (gone.status, gone.reason, gone.headers["retry-after"]) == (503, "UNAVAILABLE", "1")
    logged = (tmp_path / "earshot.log").read_text()
    assert [line.split()[2:5] for line in logged.splitlines()] == [
        ["GET", "/v1/worlds", "200"],
        ["POST", "/letta/v1/snapshot", "200"],
        ["GET", "/v1/players", "405"],
        ["GET", "/v1/worlds", "503"],
    ]
    for log in ("earshot.log", "earshot-error.log", "main.log"):
        text = (tmp_path / log).read_text()
        assert site.key not in text
        assert "962483389" not in text
