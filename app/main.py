"""The application: its parts, and how it starts and stops."""

from __future__ import annotations

import gc
import signal
import socket
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import uvicorn
from fastapi import FastAPI
from fastapi.middleware.gzip import GZipMiddleware
from fastapi_offline import FastAPIOffline
from loguru import logger
from prometheus_client import CollectorRegistry, GCCollector, PlatformCollector, ProcessCollector

from app import logs, openapi
from app.champion import ChampionKeeper, DummyKeeper, Keeper, Version
from app.deps import Parts
from app.drift_metrics import DriftReport, Retrains
from app.errors import add_handlers
from app.labels import FeedbackKeeper
from app.metrics import HttpMetrics, ModelInfo, PredictionMetrics, ServiceHealth, StateDisk
from app.middleware import RequestMiddleware
from app.prediction_writer import PredictionLog
from app.predictor import Predictor
from app.rates import Rates
from app.routes import drift, feedback, page, predictions, retrainings, system
from tableloop.settings import Settings, load_settings
from tableloop.state.database import Store
from tableloop.state.layout import Layout

STORE_SECONDS = 2.0  # a request waits no longer for another process that writes


def create_app(settings: Settings) -> FastAPI:
    """Return the application. Nothing is opened or started before its lifespan begins."""
    layout = Layout(settings.state_dir)
    registry = CollectorRegistry()
    request_log = logs.RequestLog(layout.logs)
    log = PredictionLog(layout.database, settings.log_retention_days) if settings.prediction_log else None
    store = Store(layout.database, timeout=STORE_SECONDS)
    keeper = _keeper(settings, layout, store)
    metrics = PredictionMetrics(registry)
    parts = Parts(
        settings=settings,
        layout=layout,
        store=store,
        registry=registry,
        predictor=Predictor(keeper, log, metrics),
        feedback=FeedbackKeeper(log, registry),
        rates=Rates(metrics.total),
    )
    for collector in (
        ProcessCollector(registry=None),
        PlatformCollector(registry=None),
        DriftReport(store, layout),
        Retrains(store),
        ModelInfo(lambda: keeper.current),
        ServiceHealth(layout.health),
        StateDisk(settings.state_dir),
    ):
        registry.register(collector)
    GCCollector(registry=registry)

    @asynccontextmanager
    async def lifespan(_app: FastAPI) -> AsyncIterator[None]:
        request_log.start()
        if log is not None:
            log.start()
        parts.feedback.start()
        keeper.start()
        parts.rates.start()
        yield
        parts.rates.stop()
        keeper.stop()
        if log is not None:
            log.stop()
        request_log.stop()

    app: FastAPI = FastAPIOffline(
        title=openapi.TITLE,
        description=openapi.DESCRIPTION,
        version="1",
        license_info=openapi.LICENCE,
        openapi_tags=openapi.GROUPS,
        lifespan=lifespan,
        # include_router() would nest the routers and put them after the pages of the documentation, which costs some
        # 10 % of requests/s.
        routes=[
            route
            for group in (predictions, feedback, drift, retrainings, system, page)
            for route in group.router.routes
        ],
    )
    app.state.parts = parts
    app.mount("/web", GZipMiddleware(page.PageFiles()), name="web")
    add_handlers(app)
    app.add_middleware(RequestMiddleware, request_log=request_log, metrics=HttpMetrics(registry))
    return app


def _keeper(settings: Settings, layout: Layout, store: Store) -> Keeper:
    if settings.test_mode:
        return DummyKeeper()
    from app.model_loader import MlflowRegistry  # noqa: PLC0415 - half a second that TEST_MODE does not need

    registry = MlflowRegistry(settings.mlflow_tracking_uri, settings.model_name, settings.model_alias)

    def record(version: Version, event: str, detail: str) -> None:
        store.record_serving(settings.model_name, version.version, version.run_id, event, detail)

    return ChampionKeeper(
        registry,
        layout.champion,
        settings.model_poll_seconds,
        f"{settings.model_name}@{settings.model_alias}",
        record,
    )


def main() -> None:
    """Serve until a signal comes. When that is not possible, end with one line and an exit code other than 0."""
    signal.signal(signal.SIGTERM, _leave)  # uvicorn raises the signal again at its end
    signal.signal(signal.SIGINT, _leave)
    settings = load_settings()
    listener = _listen(settings)
    log_file = Layout(settings.state_dir).app_log
    try:
        logs.configure(log_file, settings.log_level)
    except OSError as error:
        sys.exit(f"the log {log_file} cannot be written ({error}): make it writable or choose another STATE_DIR")
    app = create_app(settings)
    gc.collect()
    gc.freeze()  # a collection of the 170,000 objects of imported modules would halt requests for 0.2 s
    logger.info(f"listening on http://{settings.bind_address}:{settings.api_port}")
    config = uvicorn.Config(
        app,
        loop="uvloop",
        http="httptools",
        access_log=False,
        log_config=None,
        server_header=False,
        timeout_graceful_shutdown=2,
    )
    try:
        uvicorn.Server(config).run(sockets=[listener])
    finally:
        logger.info("stopped")


def _listen(settings: Settings) -> socket.socket:
    """Return a listening socket, bound before anything slow is loaded."""
    family = socket.AF_INET6 if ":" in settings.bind_address else socket.AF_INET
    listener = socket.socket(family)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listener.bind((settings.bind_address, settings.api_port))
        listener.listen(2048)
    except OSError as error:
        sys.exit(
            f"port {settings.api_port} on {settings.bind_address} cannot be used ({error.strerror}): "
            f"stop what listens there or set API_PORT"
        )
    return listener


def _leave(_signal: int, _frame: Any) -> None:
    sys.exit(0)


if __name__ == "__main__":
    main()
