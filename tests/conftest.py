"""Async tests run by themselves: under tests/unit and tests/contract on virtual time, elsewhere in real time.

`@pytest.mark.real_time` chooses real time for a test that waits for sockets, threads or processes.
"""

from __future__ import annotations

import asyncio
import inspect
from pathlib import Path

import pytest
from hypothesis import settings

from tests.fakes import virtual_time

VIRTUAL = (Path(__file__).parent / "unit", Path(__file__).parent / "contract")
# Real seconds after which an async test is a hang.
LIMIT_S = 120

# No test depends on being fast: an example that a busy machine interrupts is no failure.
settings.register_profile("earshot", deadline=None)
settings.load_profile("earshot")


@pytest.hookimpl(tryfirst=True)
def pytest_pyfunc_call(pyfuncitem: pytest.Function) -> bool | None:
    if not inspect.iscoroutinefunction(pyfuncitem.obj):
        return None
    arguments = {name: pyfuncitem.funcargs[name] for name in pyfuncitem._fixtureinfo.argnames}
    virtual = any(pyfuncitem.path.is_relative_to(folder) for folder in VIRTUAL)
    if virtual and pyfuncitem.get_closest_marker("real_time") is None:
        virtual_time.run(pyfuncitem.obj(**arguments))
    else:
        asyncio.run(_limited(pyfuncitem, arguments))
    return True


async def _limited(item: pytest.Function, arguments: dict[str, object]) -> None:
    async with asyncio.timeout(LIMIT_S):
        await item.obj(**arguments)
