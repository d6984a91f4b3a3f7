"""Run Letta's server on a database that may still be empty. Runs inside Letta's own venv; see `letta_server.py`.

The published wheel has no migrations, so the tables come from its ORM classes. One process does both because
importing Letta takes longer than everything else at start-up.
"""

from __future__ import annotations

import asyncio
import os
import sys
from typing import Any, Final

import asyncpg  # type: ignore[import-not-found] # lives in Letta's venv only
from sqlalchemy import text  # type: ignore[import-not-found] # lives in Letta's venv only

OPENAI_URL: Final = "https://api.openai.com/v1"


async def create_database(socket_dir: str, name: str) -> None:
    """Create the database unless it exists, waiting until Postgres accepts connections (30 s)."""
    for _ in range(300):
        try:
            connection = await asyncpg.connect(host=socket_dir, user="letta", database="postgres")
            break
        except (OSError, asyncpg.CannotConnectNowError):
            await asyncio.sleep(0.1)
    else:
        raise SystemExit(f"Postgres does not answer in {socket_dir}")
    try:
        if not await connection.fetchval("SELECT 1 FROM pg_database WHERE datname = $1", name):
            await connection.execute(f'CREATE DATABASE "{name}"')
    finally:
        await connection.close()


async def follow_endpoint(connection: Any, url: str) -> None:
    """Point the stored provider and its agents at `url`.

    Letta stores the endpoint at its first start and reads the variable never again: a model that moved to another
    port or host would be looked for at its old address for ever.
    """
    provider = "FROM providers WHERE name = 'openai' AND provider_category = 'base'"
    old = (await connection.execute(text(f"SELECT base_url {provider}"))).scalar()
    if old is None or old == url:
        return
    values = {"old": old, "new": url}
    await connection.execute(text(f"UPDATE providers SET base_url = :new WHERE id IN (SELECT id {provider})"), values)
    for column, key in (("llm_config", "model_endpoint"), ("embedding_config", "embedding_endpoint")):
        changed = f"jsonb_set({column}::jsonb, '{{{key}}}', to_jsonb(CAST(:new AS text)))::json"
        await connection.execute(
            text(f"UPDATE agents SET {column} = {changed} WHERE {column} ->> '{key}' = :old"), values
        )


async def create_tables() -> None:
    """Create all tables in one transaction, unless they are there."""
    import letta.orm  # type: ignore[import-not-found] # noqa: F401 # only in Letta's environment; registers every table
    from letta.orm.base import Base  # type: ignore[import-not-found] # only in Letta's environment
    from letta.server.db import engine  # type: ignore[import-not-found] # only in Letta's environment

    async with engine.begin() as connection:
        if (await connection.execute(text("SELECT to_regclass('agents')"))).scalar() is None:
            await connection.execute(text("CREATE EXTENSION IF NOT EXISTS vector"))
            await connection.run_sync(Base.metadata.create_all)
            # the ORM leaves out this default; without it the first message fails with NotNullViolation
            await connection.execute(text("CREATE SEQUENCE messages_sequence OWNED BY messages.sequence_id"))
            await connection.execute(
                text("ALTER TABLE messages ALTER sequence_id SET DEFAULT nextval('messages_sequence')")
            )
        else:
            await follow_endpoint(connection, os.environ.get("OPENAI_BASE_URL", OPENAI_URL))
    await engine.dispose()  # its connections belong to this event loop


def main(socket_dir: str, port: int) -> None:
    """Prepare the database, then serve on loopback until SIGTERM."""
    asyncio.run(create_database(socket_dir, "letta"))
    # a host in the query wins over the one in the address: Letta cannot parse an address without a host
    os.environ["LETTA_PG_URI"] = f"postgresql://letta@localhost/letta?host={socket_dir}&sslmode=disable"
    asyncio.run(create_tables())

    from letta.server.rest_api.app import start_server  # type: ignore[import-not-found] # only in Letta's environment

    start_server(host="127.0.0.1", port=port)


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]))
