"""A network of its own for each service: namespaces joined by a bridge, cables that can be pulled.

Namespaces have no name: each lives as long as the process that holds it open, and that ends with the pipe to this one.
So none can be left behind, however the test ends. Needs root and iproute2 (`unavailable` says why not).
"""

from __future__ import annotations

import itertools
import os
import shutil
import subprocess
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType

# RFC 2544: for tests, routed nowhere.
SUBNET = "198.18"
_numbers = itertools.count(1)


def unavailable() -> str:
    """Why namespaces cannot be made here; "" when they can."""
    missing = [tool for tool in ("ip", "nsenter", "unshare", "setpriv") if shutil.which(tool) is None]
    if missing:
        return f"{', '.join(missing)} not installed (Debian packages iproute2, util-linux)"
    if os.geteuid() != 0:
        return "network namespaces need root"
    made = subprocess.run(["unshare", "--net", "true"], capture_output=True, text=True, timeout=10, check=False)
    return f"no network namespaces here: {made.stderr.strip()}" if made.returncode else ""


@dataclass
class Namespace:
    """One network namespace, held by a process that ends with its pipe."""

    holder: subprocess.Popen[bytes]

    @classmethod
    def new(cls) -> Namespace:
        holder = subprocess.Popen(
            ["unshare", "--net", "sh", "-c", "echo; exec cat"], stdin=subprocess.PIPE, stdout=subprocess.PIPE
        )
        assert holder.stdout is not None
        holder.stdout.readline()  # it is in its namespace now
        return cls(holder)

    @property
    def path(self) -> str:
        return f"/proc/{self.holder.pid}/ns/net"

    def run(self, *command: str) -> None:
        """An `ip` command or the like inside."""
        _run("nsenter", f"--net={self.path}", *command)

    def close(self) -> None:
        assert self.holder.stdin is not None
        assert self.holder.stdout is not None
        self.holder.stdin.close()
        self.holder.wait(10)
        self.holder.stdout.close()


@dataclass
class Network:
    """Hosts by name on one bridge; this process is on it too, at `here`. Use as a context manager."""

    folder: Path
    hosts: dict[str, Namespace] = field(default_factory=dict)
    addresses: dict[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        # Of this process and this network: several may be there at once.
        number = next(_numbers)
        self._subnet = f"{SUBNET}.{(os.getpid() + number) % 250}"
        self._link = f"es{os.getpid() % 100_000}n{number}"
        self.here = f"{self._subnet}.1"
        self._names = self.folder / "hosts"

    def __enter__(self) -> Network:
        self._switch = Namespace.new()
        self._switch.run("ip", "link", "add", "bridge", "type", "bridge")
        self._switch.run("ip", "link", "set", "bridge", "up")
        _run("ip", "link", "add", self._link, "type", "veth", "peer", "name", "here", "netns", self._pid)
        self._switch.run("ip", "link", "set", "here", "master", "bridge", "up")
        _run("ip", "address", "add", f"{self.here}/24", "dev", self._link)
        _run("ip", "link", "set", self._link, "up")
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        for host in self.hosts.values():
            host.close()
        self._switch.close()  # takes the bridge and every cable with it

    @property
    def _pid(self) -> str:
        return str(self._switch.holder.pid)

    def add(self, name: str, *aliases: str) -> str:
        """A host of that name (and other names), plugged in; its address."""
        host = Namespace.new()
        self.hosts[name] = host
        cable = f"c{len(self.hosts)}"
        address = f"{self._subnet}.{len(self.hosts) + 1}"
        host.run("ip", "link", "add", "eth0", "type", "veth", "peer", "name", cable, "netns", self._pid)
        self._switch.run("ip", "link", "set", cable, "master", "bridge", "up")
        host.run("ip", "address", "add", f"{address}/24", "dev", "eth0")
        for link in ("lo", "eth0"):
            host.run("ip", "link", "set", link, "up")
        for one in (name, *aliases):
            self.addresses[one] = address
        lines = [f"{address} {one}" for one, address in self.addresses.items()]
        self._names.write_text("\n".join(("127.0.0.1 localhost", *lines, "")))
        return address

    def name(self, address: str, name: str) -> None:
        """Let hosts that start from now on find `name` at an address, for example at this process."""
        self.addresses[name] = address
        with self._names.open("a") as file:
            file.write(f"{address} {name}\n")

    def command(self, name: str, *command: str) -> list[str]:
        """A command as it runs on a host: its network, everybody's names, and it ends when this process does."""
        inside = f'mount --bind {self._names} /etc/hosts && exec "$@"'
        return [
            "nsenter", f"--net={self.hosts[name].path}", "unshare", "--mount", "--propagation=private",
            "setpriv", "--pdeathsig=KILL", "sh", "-c", inside, "sh", *command,
        ]  # fmt: skip

    def cut(self, name: str) -> None:
        """Pull a host's cable: nothing reaches it, and it reaches nobody; connections stay as they are."""
        self.hosts[name].run("ip", "link", "set", "eth0", "down")

    def mend(self, name: str) -> None:
        self.hosts[name].run("ip", "link", "set", "eth0", "up")


def _run(*command: str) -> None:
    done = subprocess.run(command, capture_output=True, text=True, timeout=10, check=False)
    if done.returncode:
        raise RuntimeError(f"{' '.join(command)}: {done.stderr.strip()}")
