"""Wires the sync room into an app."""

from __future__ import annotations

import random
from collections.abc import Mapping
from dataclasses import astuple
from functools import partial

from earshot.sync.v1 import sync_pb2_grpc

from services.common.app import App
from services.common.mirror import Layout
from services.common.replicas import Holder, Partitions
from services.common.settings import Settings
from services.sync.agents.embodiments import Embodiments
from services.sync.crew import Crew
from services.sync.degraded import markov_store
from services.sync.degraded.markov_store import MarkovStore
from services.sync.degraded.reply_cache import ReplyCache
from services.sync.degraded.voices import Voices
from services.sync.drift import Drift
from services.sync.embedders.onnx import OnnxEmbedder
from services.sync.embedders.openai import OpenAIEmbedder
from services.sync.embedders.port import Embedder, NoEmbedder
from services.sync.erasure import Erasure
from services.sync.reader import StateReader
from services.sync.reconciler import Reconciler
from services.sync.refresh import Refresher
from services.sync.routing.chain import Chain
from services.sync.routing.completions import Completions
from services.sync.routing.endpoint import Endpoint
from services.sync.routing.fleet import default_chain, make_runtimes
from services.sync.routing.metering import DAY_MS, Meter, Usage
from services.sync.routing.provider import Provider
from services.sync.routing.providers import GROUP, Configured, configured
from services.sync.runtimes.port import Runtime
from services.sync.servicer import SyncServicer
from services.sync.store import SCHEMA, SyncStore
from services.sync.summary import Summaries
from services.sync.turns.converse import Turns
from services.sync.worker import Checks, Deletions, Informer, Samples

SERVICE = "earshot.sync.v1.SyncService"
TABLES = (*SCHEMA, *markov_store.SCHEMA)
LAYOUT = Layout(
    # Usage is counted by each process.
    derived=frozenset({"markov", "markov_word", "usage"}),
    told=frozenset({"markov_line"}),
    by_writer=frozenset({"local_agent", "local_block"}),
    entered=partial(markov_store.count_lines, by=1),
    leaving=partial(markov_store.count_lines, by=-1),
)


async def bind(app: App) -> None:
    """Serve SyncService; watch state; keep agents fresh; delete those whose world is gone."""
    settings = app.settings
    found = configured(settings)
    default = default_chain(settings, found)
    store = SyncStore(app.open_store("sync", TABLES, LAYOUT))
    await serve(app, store, make_runtimes(settings, found, store), default, found)


async def serve(
    app: App,
    store: SyncStore,
    runtimes: Mapping[str, Runtime],
    default: tuple[str, ...],
    found: Configured | None = None,
) -> None:
    """The room over these runtimes: what `bind` does with the configured ones."""
    settings, rng, found = app.settings, random.Random(), found or Configured()
    app.calls("state")
    providers = {provider.name: provider for provider in found.providers}
    endpoints = {
        name: Endpoint(
            runtime, settings.runtime_concurrency, app.metrics, rng,
            home=GROUP if name in providers else "", provider=providers.get(name) or _priced(name, settings),
        )
        for name, runtime in runtimes.items()
    }  # fmt: skip
    for name, runtime in runtimes.items():
        app.on_close(f"sync.runtime.{name}", runtime.close)
    crew = Crew()
    app.on_close("sync.crew", lambda: crew.close(min(settings.shutdown_s, 5.0)))
    chain = Chain(endpoints, default)
    reader = StateReader(app.channels.to("state"), app.clock)
    agents = Embodiments(settings, store, chain, app.clock, app.metrics)
    used = [Usage(*row) for row in store.load_usage(app.clock.now_ms() // DAY_MS)]
    meter = Meter(
        found.budgets, used, app.clock.now_ms, app.metrics, keep=lambda usage: store.keep_usage(*astuple(usage))
    )
    completions = Completions(chain, meter)
    summaries = Summaries(store, completions, crew)
    reconciler = Reconciler(settings, reader, agents, crew, app.clock, app.metrics, rng, summaries)
    deletions = Deletions(agents)
    voices = Voices(MarkovStore(store.database), ReplyCache(settings.cache_ttl_s), app.metrics)
    turns = Turns(reconciler, voices, meter, rng)
    refresher = Refresher(reconciler)
    erasure = Erasure(reconciler, deletions, voices, turns.replays)
    embedder = make_embedder(settings)
    app.on_close("sync.embedder", embedder.close)
    servicer = SyncServicer(reconciler, turns, refresher, erasure, completions, chain, settings, app.clock, embedder)
    app.add(sync_pb2_grpc.add_SyncServiceServicer_to_server, servicer, SERVICE)
    informer = Informer(reconciler)

    async def entered(partitions: Partitions) -> None:
        store.came()
        agents.load(partitions)
        summaries.load(partitions)
        informer.list_again()

    async def leaving(partitions: Partitions) -> None:
        agents.let_go(partitions)
        summaries.let_go(partitions)

    await app.hold("sync", store.database, Holder(entered, leaving))
    app.worker("sync.informer", informer.run)
    app.worker("sync.reconciler", reconciler.run)
    app.worker("sync.deletions", deletions.run)
    app.worker("sync.checks", Checks(reconciler).run)
    app.worker("sync.drift", Samples(Drift(reconciler, rng), settings.drift_every_s).run)


def _priced(name: str, settings: Settings) -> Provider:
    return Provider(name, price_prompt=settings.prompt_price, price_completion=settings.completion_price)


def make_embedder(settings: Settings) -> Embedder:
    """The embedder as configured; a model directory before an endpoint. Raises BadInput when it cannot be used."""
    if settings.embed_model_dir:
        return OnnxEmbedder(settings.embed_model_dir)
    if settings.embed_base_url:
        return OpenAIEmbedder(
            settings.embed_base_url, settings.embed_api_key or settings.openai_api_key, settings.embed_model
        )
    return NoEmbedder()
