"""Wires the sync room into an app."""

from __future__ import annotations

import random

from earshot.sync.v1 import sync_pb2_grpc

from services.common.app import App
from services.common.errors import BadInput
from services.common.settings import Settings
from services.sync.chain import Chain, names
from services.sync.crew import Crew
from services.sync.embodiments import Embodiments
from services.sync.endpoint import Endpoint
from services.sync.reader import StateReader
from services.sync.reconciler import Reconciler
from services.sync.refresh import Refresher
from services.sync.runtimes.letta import LettaRuntime
from services.sync.runtimes.offline import OfflineRuntime
from services.sync.runtimes.openai import OpenAIRuntime
from services.sync.runtimes.port import Rejected, Runtime
from services.sync.servicer import SyncServicer
from services.sync.store import SCHEMA, SyncStore
from services.sync.turns import Turns
from services.sync.worker import Checks, Deletions, Informer

SERVICE = "earshot.sync.v1.SyncService"


async def bind(app: App) -> None:
    """Serve SyncService; watch state; keep agents fresh; delete those whose world is gone."""
    settings = app.settings
    default = names(settings.runtimes, letta=bool(settings.letta_base_url), openai=bool(settings.openai_base_url))
    store = SyncStore(app.open_store("sync", SCHEMA))
    runtimes = {name: make_runtime(name, settings, store) for name in default}
    await serve(app, store, runtimes, default)


async def serve(app: App, store: SyncStore, runtimes: dict[str, Runtime], default: tuple[str, ...]) -> None:
    """The room over these runtimes: what `bind` does with the configured ones."""
    settings, rng = app.settings, random.Random()
    app.calls("state")
    prices = (settings.prompt_price, settings.completion_price)
    endpoints = {
        name: Endpoint(runtime, settings.runtime_concurrency, app.metrics, rng, prices)
        for name, runtime in runtimes.items()
    }
    for name, runtime in runtimes.items():
        app.on_close(f"sync.runtime.{name}", runtime.close)
    crew = Crew()
    app.on_close("sync.crew", lambda: crew.close(min(settings.shutdown_s, 5.0)))
    chain = Chain(endpoints, default)
    reader = StateReader(app.channels.to("state"), app.clock)
    agents = Embodiments(settings, store, chain, app.clock, app.metrics)
    agents.load()
    reconciler = Reconciler(settings, reader, agents, crew, app.clock, app.metrics, rng)
    deletions = Deletions(agents)
    servicer = SyncServicer(reconciler, Turns(reconciler), Refresher(reconciler, deletions), chain, settings, app.clock)
    app.add(sync_pb2_grpc.add_SyncServiceServicer_to_server, servicer, SERVICE)
    app.worker("sync.informer", Informer(reconciler).run)
    app.worker("sync.reconciler", reconciler.run)
    app.worker("sync.deletions", deletions.run)
    app.worker("sync.checks", Checks(reconciler).run)


def make_runtime(name: str, settings: Settings, store: SyncStore) -> Runtime:
    """The runtime of that name as configured. Raises BadInput."""
    match name:
        case "letta":
            try:
                return LettaRuntime(
                    settings.letta_base_url,
                    settings.letta_api_key,
                    model=settings.letta_model,
                    embedding=settings.letta_embedding,
                    max_tokens=settings.max_tokens,
                    temperature=settings.temperature,
                )
            except Rejected as error:
                raise BadInput(error.message) from error
        case "openai":
            return OpenAIRuntime(settings.openai_base_url, settings.openai_api_key, settings.openai_model, shelf=store)
        case _:
            return OfflineRuntime(store)
