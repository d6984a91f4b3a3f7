"""Namespaces are apart until joined, cut when cut, and gone with the test, also when the test is killed."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import textwrap
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.e2e.stack import ROOT
from tests.faults.network import Network, unavailable

why_not = unavailable()
pytestmark = pytest.mark.skipif(bool(why_not), reason=why_not)


@contextlib.contextmanager
def listening(network: Network, host: str) -> Iterator[subprocess.Popen[str]]:
    """A server on a host that says its name."""
    program = textwrap.dedent(
        f"""
        import socket
        server = socket.create_server(("0.0.0.0", 7000))
        print("ready", flush=True)
        while True:
            server.accept()[0].sendall(b"{host}")
        """
    )
    process = subprocess.Popen(network.command(host, sys.executable, "-c", program), stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    try:
        assert process.stdout.readline() == "ready\n"
        yield process
    finally:
        process.kill()
        process.wait(10)
        process.stdout.close()


def asked(network: Network, asker: str, name: str) -> str:
    """What the server of that name says to a host; "" when it cannot be reached."""
    program = f"import socket; print(socket.create_connection(({name!r}, 7000), 1).recv(99).decode())"
    done = subprocess.run(
        network.command(asker, sys.executable, "-c", program), capture_output=True, text=True, timeout=30, check=False
    )
    return done.stdout.strip()


def test_hosts_find_each_other_by_name_until_the_cable_is_pulled(tmp_path: Path) -> None:
    with Network(tmp_path) as network:
        for name in ("state", "chat", "sync"):
            network.add(name, f"{name}.rooms")
        with listening(network, "state"), listening(network, "chat"):
            assert asked(network, "sync", "state.rooms") == "state"
            network.cut("state")
            assert (asked(network, "sync", "state"), asked(network, "sync", "chat")) == ("", "chat")
            assert asked(network, "state", "127.0.0.1") == "state"
            network.mend("state")
            assert asked(network, "sync", "state") == "state"


def links() -> set[str]:
    return {one.name for one in Path("/sys/class/net").iterdir()}


def namespaces() -> set[str]:
    """Network namespaces of all processes, by inode."""
    found = set()
    for process in Path("/proc").iterdir():
        if process.name.isdigit():
            with contextlib.suppress(OSError):
                found.add(os.readlink(process / "ns" / "net"))
    return found


def test_nothing_is_left_behind_when_the_test_is_killed(tmp_path: Path) -> None:
    program = textwrap.dedent(
        f"""
        import subprocess, sys, time
        from pathlib import Path
        from tests.faults.network import Network
        with Network(Path({str(tmp_path)!r})) as network:
            network.add("state")
            process = subprocess.Popen(network.command("state", "sleep", "600"))
            print(network.hosts["state"].path, process.pid, network._link, flush=True)
            time.sleep(600)
        """
    )
    process = subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE, text=True, cwd=ROOT)
    assert process.stdout is not None
    path, service, link = process.stdout.readline().split()
    inside = os.readlink(path)
    assert inside in namespaces()
    assert link in links()
    process.send_signal(signal.SIGKILL)
    process.wait(10)
    process.stdout.close()
    for _ in range(500):
        if inside not in namespaces() and link not in links() and not Path(f"/proc/{service}").exists():
            return
        signal.sigtimedwait([], 0.02)  # the kernel takes them apart by itself
    raise AssertionError("a namespace, its link or its process stayed")
