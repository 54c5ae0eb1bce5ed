"""The application: its parts, and how it starts and stops."""

from __future__ import annotations

import gc
import signal
import socket
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, nullcontext
from functools import partial

import uvicorn
from fastapi import FastAPI
from fastapi.middleware.gzip import GZipMiddleware
from fastapi_offline import FastAPIOffline
from loguru import logger
from prometheus_client import CollectorRegistry, GCCollector, PlatformCollector, ProcessCollector

from app import access, logs, openapi
from app.access import Access
from app.champion import ChampionKeeper, DummyKeeper, Keeper, Version
from app.connections import KEEP_ALIVE_SECONDS, Connections
from app.deps import Parts
from app.draining_server import DrainingServer
from app.drift_metrics import drift_gauges, retrains
from app.errors import add_handlers
from app.explanations import Explanations
from app.labels import FeedbackKeeper
from app.metrics import (
    HttpMetrics,
    PredictionMetrics,
    Scrape,
    model_info,
    prediction_log,
    service_health,
    state_disk,
    used_by_all,
)
from app.middleware import RequestMiddleware
from app.prediction_writer import PredictionLog
from app.predictor import Predictor
from app.processes import Processes
from app.rates import Rates
from app.routes import drift, explain, feedback, page, predictions, retrainings, system, versions
from app.schemas import TABLE
from app.shadow_metrics import ShadowGauges
from app.uploads import Uploads
from app.version_history import VersionHistory
from tableloop.api_keys import KeysError
from tableloop.host_names import HostNames, with_port
from tableloop.listener import listen
from tableloop.settings import Settings, load_settings
from tableloop.state.database import Store
from tableloop.state.layout import Layout
from tableloop.tls import CertificateError, offering

STORE_SECONDS = 2.0  # a request waits no longer for another process that writes


def create_app(settings: Settings, processes: Processes | None = None) -> FastAPI:
    """Return the application. Nothing is opened or started before its lifespan begins.

    Several ``processes`` are forked from the one that has made it.
    """
    processes = processes or Processes()
    layout = Layout(settings.state_dir)
    registry = CollectorRegistry()
    counters = processes.counters(registry)
    request_log = logs.RequestLog(layout.logs)
    store = Store.of(settings, timeout=STORE_SECONDS)
    # SQLite alone: PostgreSQL has an order of its own, and writers on other machines.
    turn = nullcontext if store.database_url else partial(processes.lock, "commit")
    # The log opens the store, so that reading from it does not wait for somebody else's lock.
    log = PredictionLog(store, settings.log_retention_days, turn) if settings.prediction_log else None
    keeper = _keeper(settings, layout, store)
    metrics = PredictionMetrics(registry, counters, processes)
    labels = FeedbackKeeper(log, registry, counters)
    parts = Parts(
        settings=settings,
        layout=layout,
        store=store,
        registry=registry,
        predictor=Predictor(keeper, log, metrics),
        feedback=labels,
        rates=Rates(metrics.total),
        access=Access(settings),
        uploads=Uploads(processes),
        explanations=Explanations(processes),
        versions=VersionHistory(settings, store, keeper, labels.live_errors),
        processes=processes,
    )
    for collector in (
        PlatformCollector(registry=None),
        Scrape(drift_gauges, store, layout),
        Scrape(retrains, store),
        ShadowGauges(store, keeper, settings),
        Scrape(model_info, keeper),
        Scrape(service_health, layout.health),
        Scrape(state_disk, settings.state_dir),
    ):
        registry.register(collector)
    if log is not None:
        registry.register(Scrape(prediction_log, log))
    if processes.count == 1:
        ProcessCollector(registry=registry)
        GCCollector(registry=registry)
    else:
        registry.register(Scrape(used_by_all, processes))

    @asynccontextmanager
    async def lifespan(_app: FastAPI) -> AsyncIterator[None]:
        running = [part for part in (request_log, log, keeper, parts.rates) if part is not None]
        for part in running:
            part.start()
        await processes.turn(lambda: keeper.current is not None, lambda: keeper.looks_at_copy)
        yield
        for part in reversed(running):
            part.stop()

    app: FastAPI = FastAPIOffline(
        title=TABLE.title,
        description=openapi.DESCRIPTION,
        version="1",
        license_info=openapi.LICENCE,
        openapi_tags=openapi.GROUPS,
        lifespan=lifespan,
        root_path=settings.root_path,
        # include_router() would nest the routers and put them after the pages of the documentation, which costs some
        # 10 % of requests/s.
        routes=[
            route
            for group in (predictions, explain, feedback, drift, retrainings, versions, system, page)
            for route in group.router.routes
        ],
    )
    app.openapi = access.described(app.openapi)  # type: ignore[method-assign]
    app.state.parts = parts
    app.mount("/web", GZipMiddleware(page.PageFiles()), name="web")
    add_handlers(app)
    app.add_middleware(
        RequestMiddleware,
        request_log=request_log,
        metrics=HttpMetrics(counters),
        names=HostNames(settings.allowed_hosts),
        root_path=settings.root_path,
    )
    return app


def _keeper(settings: Settings, layout: Layout, store: Store) -> Keeper:
    if settings.test_mode:
        return DummyKeeper()
    from app.model_loader import MlflowRegistry  # noqa: PLC0415 - half a second that TEST_MODE does not need

    registry = MlflowRegistry(settings)

    def record(version: Version, event: str, detail: str) -> None:
        store.record_serving(settings.model_name, version.version, version.run_id, event, detail)

    name = f"{settings.model_name}@{settings.model_alias}"
    return ChampionKeeper(registry, layout.champion, settings.model_poll_seconds, name, record)


def main() -> None:
    """Serve until a signal comes. When that is not possible, end with one line and an exit code other than 0."""
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: sys.exit(0))  # uvicorn raises the signal again at its end
    settings = load_settings()
    listener = _listen(settings)
    log_file = Layout(settings.state_dir).app_log
    try:
        logs.configure(log_file, settings.log_level, rotates=settings.api_processes == 1)
    except OSError as error:
        sys.exit(f"the log {log_file} cannot be written ({error}): make it writable or choose another STATE_DIR")
    try:
        processes = Processes(settings.api_processes, settings.drain_seconds)
        app = create_app(settings, processes)
    except KeysError as error:
        sys.exit(f"API_KEYS: {error}")
    gc.collect()
    gc.freeze()  # a collection of the 170,000 objects of imported modules would halt requests for 0.2 s
    scheme = "https" if settings.tls_cert else "http"
    logger.info(f"listening on {scheme}://{with_port(settings.bind_address, settings.api_port)}")
    config = uvicorn.Config(
        app,
        loop="uvloop",
        http=Connections(settings.client_connections, processes).protocol,  # type: ignore[arg-type]
        ws="none",
        timeout_keep_alive=KEEP_ALIVE_SECONDS,
        access_log=False,
        log_config=None,
        server_header=False,
        timeout_graceful_shutdown=2,
    )
    config.load()
    if settings.tls_cert and settings.tls_key:
        try:
            config.ssl = offering(settings.tls_cert, settings.tls_key)
        except CertificateError as error:
            sys.exit(f"TLS_CERT, TLS_KEY: {error}")
    try:
        if processes.count == 1:
            DrainingServer(config, processes).run(sockets=[listener])
        else:
            processes.run(partial(_serve_beside_others, config, listener, app.state.parts))
    finally:
        logger.info("stopped")


def _serve_beside_others(config: uvicorn.Config, listener: socket.socket, parts: Parts) -> None:
    """Serve as one of several processes, of which the first rotates the log."""
    if parts.processes.number == 0:
        logs.configure(parts.layout.app_log, parts.settings.log_level)
    server = uvicorn.Server(config)

    async def beat() -> None:
        parts.processes.beat(has_model=parts.predictor.keeper.current is not None)
        server.should_exit |= parts.processes.stops()

    config.callback_notify, config.timeout_notify = beat, 0  # uvicorn calls it once a second
    server.run(sockets=[listener])


def _listen(settings: Settings) -> socket.socket:
    """Return a listening socket, bound before anything slow is loaded."""
    try:
        return listen(settings.bind_address, settings.api_port)
    except OSError as error:
        sys.exit(
            f"port {settings.api_port} on {settings.bind_address} cannot be used ({error.strerror}): "
            f"stop what listens there or set API_PORT"
        )


if __name__ == "__main__":
    main()
