"""The systemd units, as far as they can be checked without a systemd that runs: its own verifier reads them."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path

import pytest

from services.cli.commands import _parser
from tests.unit.house import setting_names

ROOT = Path(__file__).parents[2]
UNITS = ROOT / "deploy" / "systemd"
PROGRAMS = re.compile(r"^(Exec\w+)=(/opt/earshot/\S+)(.*)$", re.MULTILINE)

needs_verifier = pytest.mark.skipif(
    shutil.which("systemd-analyze") is None, reason="systemd-analyze (Debian package systemd) is not installed"
)


def verified(unit: Path, text: str) -> str:
    """What systemd finds wrong with a unit whose programs exist; "" when nothing."""
    unit.write_text(PROGRAMS.sub(r"\1=/bin/true\3", text))
    result = subprocess.run(
        ["systemd-analyze", "verify", str(unit)], capture_output=True, text=True, timeout=60, check=False
    )
    return result.stderr + ("" if result.returncode == 0 else f"exit status {result.returncode}")


@needs_verifier
@pytest.mark.parametrize("name", ["earshot.service", "letta.service"])
def test_systemd_finds_nothing_wrong(name: str, tmp_path: Path) -> None:
    assert verified(tmp_path / name, (UNITS / name).read_text()) == ""


@needs_verifier
def test_a_planted_defect_is_found(tmp_path: Path) -> None:
    text = (UNITS / "earshot.service").read_text()
    assert "NoNewPriviledges" in verified(
        tmp_path / "earshot.service", text.replace("NoNewPriv", "NoNewPriviledges=yes\nNoNewPriv")
    )


@needs_verifier
def test_the_service_is_confined() -> None:
    result = subprocess.run(
        ["systemd-analyze", "security", "--offline=true", "--threshold=20", str(UNITS / "earshot.service")],
        capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip
    assert result.returncode == 0, result.stdout[-400:]


def test_the_units_start_what_exists_with_settings_that_exist() -> None:
    text = (UNITS / "earshot.service").read_text()
    (start,) = (match for match in PROGRAMS.finditer(text) if match[1] == "ExecStart")
    assert _parser().parse_args(start[3].split()).target == "all"
    named = set(re.findall(r"\b(EARSHOT_[A-Z_]+)=", text))
    assert named
    assert named <= setting_names()
    scripts = [
        match[2].removeprefix("/opt/earshot/src/") for match in PROGRAMS.finditer((UNITS / "letta.service").read_text())
    ]
    assert scripts == ["deploy/letta/start.sh", "deploy/letta/stop.sh"]
    assert all((ROOT / script).stat().st_mode & 0o111 for script in scripts)
