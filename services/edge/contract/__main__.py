"""Prints the contract as it is served: `python -m services.edge.contract > docs/openapi.json`."""

from __future__ import annotations

import asyncio
import json
import sys

from services.common.app import App
from services.common.settings import Settings
from services.edge.server import build


async def main() -> None:
    """Every room is of this process, so that nothing is connected to; none is started."""
    app = App(Settings(data=":memory:"), ("edge", "state", "sync", "chat"))
    json.dump(build(app).contract.document(), sys.stdout, indent=1)
    sys.stdout.write("\n")


if __name__ == "__main__":
    asyncio.run(main())
