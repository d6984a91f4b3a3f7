"""The peers' own environment: made below .cache/ from a hash-pinned lock when it is missing or the lock changed."""

from __future__ import annotations

import hashlib
import subprocess
import sys
from pathlib import Path

from bench.catalogue import progress
from services.common.errors import Unavailable

ROOT = Path(__file__).parents[2]
PEERS = Path(__file__).parent
LOCK = PEERS / "requirements.lock"
PROTO = PEERS / "fastapi_unary" / "peer.proto"
FOLDER = ROOT / ".cache" / "bench"


def python() -> Path:
    """The environment's interpreter. Raises Unavailable when it cannot be made."""
    folder = FOLDER / "peers"
    executable, stamp = folder / "bin" / "python", folder / ".made"
    wanted = hashlib.sha256(LOCK.read_bytes() + PROTO.read_bytes()).hexdigest()
    if stamp.is_file() and stamp.read_text(encoding="ascii") == wanted and executable.exists():
        return executable
    progress(f"peers: making their environment in {folder.relative_to(ROOT)} (once, some minutes)")
    generated(folder).mkdir(parents=True, exist_ok=True)
    _run(sys.executable, "-m", "venv", str(folder))
    install = ("install", "--quiet", "--disable-pip-version-check", "--require-hashes", "-r", str(LOCK))
    _run(str(executable), "-m", "pip", *install)
    out = str(generated(folder))
    _run(
        str(executable), "-m", "grpc_tools.protoc", f"-I{PROTO.parent}", f"--python_out={out}",
        f"--grpc_python_out={out}", str(PROTO),
    )  # fmt: skip
    stamp.write_text(wanted, encoding="ascii")
    return executable


def path() -> str:
    """PYTHONPATH of programs in the environment."""
    return f"{ROOT}:{generated(FOLDER / 'peers')}"


def generated(folder: Path) -> Path:
    """Where the peers' generated code lies."""
    return folder / "gen"


def _run(*arguments: str) -> None:
    done = subprocess.run(arguments, capture_output=True, text=True, check=False, timeout=900)
    if done.returncode:
        raise Unavailable(
            f"the peers' environment could not be made: {' '.join(arguments[:4])}: {done.stderr[-500:]}",
            reason="PEERS_UNAVAILABLE",
        )
