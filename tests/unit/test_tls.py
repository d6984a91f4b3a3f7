"""Who may talk to whom between rooms, and that nobody talks in the clear beyond the machine."""

from __future__ import annotations

import datetime
import stat
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import grpc
import pytest
from cryptography import x509
from earshot.cluster.v1 import cluster_pb2, cluster_pb2_grpc
from grpc_health.v1 import health_pb2, health_pb2_grpc

from services.cli.certs import AUTHORITY, issue
from services.cli.commands import main
from services.cluster.server import bind
from services.common import tls
from services.common.app import App
from services.common.channels import remote
from services.common.errors import BadInput, Forbidden, Unavailable, from_rpc
from services.common.settings import SERVED, Settings
from tests.e2e.stack import free_ports

NOW = datetime.datetime.now(datetime.UTC)


@pytest.mark.parametrize(
    ("address", "local"),
    [
        ("127.0.0.1:50051", True), ("127.9.9.9:1", True), ("localhost:50051", True), ("[::1]:50051", True),
        ("unix:/run/earshot/state.sock", True), ("0.0.0.0:50051", False), ("[::]:50051", False),
        ("state:50051", False), ("10.0.0.5:50051", False), (":50051", False), ("localhost.example.org:1", False),
    ],
)  # fmt: skip
def test_what_stays_on_the_machine(address: str, local: bool) -> None:
    assert tls.is_local(address) is local


def test_plaintext_beyond_the_machine_is_refused_with_the_rooms_names() -> None:
    addresses = {"state": "0.0.0.0:50051", "chat": "127.0.0.1:50054"}
    with pytest.raises(BadInput, match="state at") as caught:
        tls.require(None, addresses)
    assert caught.value.reason == "PLAINTEXT_REFUSED"
    assert "chat" not in caught.value.message
    tls.require(tls.Identity(b"", b"", b""), addresses)
    tls.require(None, {"chat": "127.0.0.1:50054"})
    with pytest.raises(BadInput):
        remote("state", "state:50051", None)


def test_who_may_call_whom_is_the_architecture() -> None:
    assert tls.callers("cluster") == {"state.earshot"}
    assert tls.callers("sync") == {"edge.earshot", "chat.earshot"}
    assert "sync.earshot" not in tls.callers("chat")
    assert all(tls.callers(room) for room in SERVED)
    assert tls.callers("chat", "chat=ops.example, state=other.example") == tls.callers("chat") | {"ops.example"}


def test_certificates_name_their_rooms_and_nobody_else_reads_their_keys(tmp_path: Path) -> None:
    folders = issue(tmp_path, [("edge",), ("state", "cluster")], NOW, days=30)
    assert [folder.name for folder in folders] == ["edge", "state+cluster"]
    certificate = x509.load_pem_x509_certificate((folders[1] / tls.CERT).read_bytes())
    names = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    assert names.get_values_for_type(x509.DNSName) == ["state.earshot", "cluster.earshot"]
    authority = x509.load_pem_x509_certificate((tmp_path / AUTHORITY / tls.CA).read_bytes())
    certificate.verify_directly_issued_by(authority)
    for key in tmp_path.glob("*/key.pem"):
        assert stat.S_IMODE(key.stat().st_mode) == 0o600
    # A second call renews the process's certificate under the same authority.
    issue(tmp_path, [("edge",)], NOW, days=30)
    assert x509.load_pem_x509_certificate((tmp_path / AUTHORITY / tls.CA).read_bytes()) == authority


def test_bad_certificate_requests_say_what_is_wrong(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["certs", str(tmp_path), "kitchen"]) == 1
    assert main(["certs", str(tmp_path), "--days", "0"]) == 1
    (tmp_path / "file").write_text("")
    assert main(["certs", str(tmp_path / "file")]) == 1
    assert capsys.readouterr().err.count("BAD_CERTS") == 3
    with pytest.raises(BadInput, match=r"ca\.pem") as caught:
        tls.load(str(tmp_path))
    assert caught.value.reason == "TLS_FILES"
    assert tls.load("") is None


@asynccontextmanager
async def cluster(directory: Path) -> AsyncIterator[str]:
    """A cluster room behind TLS; its address."""
    (port,) = free_ports(1)
    address = f"127.0.0.1:{port}"
    settings = Settings(data=":memory:", cluster_addr=address, tls=str(directory / "cluster"))
    app = App(settings, ["cluster"], network=True)
    await bind(app)
    async with app:
        yield address


@pytest.mark.real_time
async def test_only_a_caller_that_the_room_knows_gets_an_answer(tmp_path: Path) -> None:
    issue(tmp_path / "ours", [("cluster",), ("state",), ("chat",)], NOW, days=1)
    issue(tmp_path / "theirs", [("state",)], NOW, days=1)

    async def ask(identity: tls.Identity | None, address: str) -> cluster_pb2.AssignResponse:
        async with remote("cluster", address, identity) as channel:
            stub = cluster_pb2_grpc.ClusterServiceStub(channel)
            return await stub.Assign(cluster_pb2.AssignRequest(), timeout=5, wait_for_ready=False)

    async with cluster(tmp_path / "ours") as address:
        assert not (await ask(tls.load(str(tmp_path / "ours" / "state")), address)).worlds

        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await ask(tls.load(str(tmp_path / "ours" / "chat")), address)
        refused = from_rpc(caught.value)
        assert isinstance(refused, Forbidden)
        assert refused.reason == "CALLER_REFUSED"

        for stranger in (None, tls.load(str(tmp_path / "theirs" / "state"))):
            with pytest.raises(grpc.aio.AioRpcError) as caught:
                await ask(stranger, address)
            assert isinstance(from_rpc(caught.value), Unavailable)

        async with remote("cluster", address, tls.load(str(tmp_path / "ours" / "chat"))) as channel:
            health = await health_pb2_grpc.HealthStub(channel).Check(health_pb2.HealthCheckRequest(), timeout=5)
        assert health.status != health_pb2.HealthCheckResponse.UNKNOWN


@pytest.mark.real_time
async def test_a_room_does_not_start_in_the_clear_beyond_the_machine() -> None:
    app = App(Settings(data=":memory:", cluster_addr="0.0.0.0:0"), ["cluster"], network=True)
    await bind(app)
    with pytest.raises(BadInput) as caught:
        await app.start()
    assert caught.value.reason == "PLAINTEXT_REFUSED"
    await app.stop()
