"""Where compiled code is kept: only where it can be written, and only where nobody else can write."""

from __future__ import annotations

from pathlib import Path

import pytest

from services.common.code_cache import writable


def test_the_first_directory_that_can_be_written(tmp_path: Path) -> None:
    blocked = tmp_path / "file"
    blocked.touch()
    assert writable(None, blocked / "below", tmp_path / "cache") == str(tmp_path / "cache")
    assert (tmp_path / "cache").stat().st_mode & 0o777 == 0o700
    assert writable(blocked) == ""


@pytest.mark.parametrize("mode", [0o770, 0o707])
def test_a_directory_that_others_may_write_is_no_place_for_code(tmp_path: Path, mode: int) -> None:
    shared = tmp_path / "shared"
    shared.mkdir()
    shared.chmod(mode)
    assert writable(shared) == ""
    assert writable(shared, tmp_path / "own") == str(tmp_path / "own")
