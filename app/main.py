"""The application: what it is made of, and how it starts and stops."""

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
from prometheus_client import CollectorRegistry

from app import logs, openapi
from app.champion import ChampionKeeper, DummyKeeper, Version
from app.drift_metrics import DriftReport, Retrains
from app.errors import add_handlers
from app.labels import FeedbackKeeper
from app.metrics import HttpMetrics, Metrics, ModelInfo, ServiceHealth, StateDisk
from app.middleware import RequestMiddleware
from app.overview import OverviewSource, Rates
from app.prediction_writer import PredictionLog
from app.predictor import Predictor
from app.routes import drift, feedback, page, predictions, retrainings, system
from tableloop.settings import Settings, load_settings
from tableloop.state.database import Store
from tableloop.state.layout import Layout
from tableloop.table import FEATURE_NAMES

STORE_SECONDS = 2.0  # that a request waits for somebody else's write


def create_app(settings: Settings) -> FastAPI:
    """Return the application. Nothing is opened or started before its lifespan begins."""
    layout = Layout(settings.state_dir)
    store = Store(layout.database, FEATURE_NAMES, timeout=STORE_SECONDS)
    keeper = _keeper(settings, layout, store)
    request_log = logs.RequestLog(layout.logs)
    prediction_log = (
        PredictionLog(layout.database, settings.log_retention_days, FEATURE_NAMES)
        if settings.prediction_log
        else None
    )
    registry = CollectorRegistry()
    metrics = Metrics(registry)
    predictor = Predictor(keeper, prediction_log, metrics)
    rates = Rates(metrics.values)
    feedback_keeper = FeedbackKeeper(prediction_log, registry)
    registry.register(DriftReport(store, layout))
    registry.register(Retrains(store))
    health_file = layout.health
    registry.register(ModelInfo(lambda: keeper.current))
    registry.register(ServiceHealth(health_file))
    registry.register(StateDisk(settings.state_dir))

    @asynccontextmanager
    async def lifespan(_app: FastAPI) -> AsyncIterator[None]:
        request_log.start()
        if prediction_log is not None:
            prediction_log.start()
        feedback_keeper.start()
        keeper.start()
        rates.start()
        yield
        rates.stop()
        keeper.stop()
        if prediction_log is not None:
            prediction_log.stop()
        request_log.stop()

    app: FastAPI = FastAPIOffline(
        title=openapi.TITLE,
        description=openapi.DESCRIPTION,
        version="1",
        license_info=openapi.LICENCE,
        openapi_tags=openapi.GROUPS,
        lifespan=lifespan,
        # not include_router: a nested router costs every request, and these go before the pages of the documentation
        routes=[
            *predictions.router.routes,
            *feedback.router.routes,
            *drift.router.routes,
            *retrainings.router.routes,
            *system.router.routes,
            *page.router.routes,
        ],
    )
    app.state.settings = settings
    app.state.predictor = predictor
    app.state.feedback = feedback_keeper
    app.state.store = store
    app.state.layout = layout
    app.state.metrics = metrics
    app.state.health_file = health_file
    app.state.overview = OverviewSource(settings, store, predictor, feedback_keeper.live_errors, rates)
    app.mount("/web", GZipMiddleware(page.PageFiles()), name="web")
    add_handlers(app)
    app.add_middleware(RequestMiddleware, request_log=request_log, metrics=HttpMetrics(registry))
    return app


def _keeper(settings: Settings, layout: Layout, store: Store) -> ChampionKeeper | DummyKeeper:
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
    """Serve until a signal comes; end with one line and a code other than 0 when that is not possible."""
    signal.signal(signal.SIGTERM, _leave)  # uvicorn raises the signal once more when it is done
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
    gc.freeze()  # a collection that goes through the 170,000 objects of imported modules halts requests for 0.2 s
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
    """Return a socket that listens where the settings say, bound before anything slow is loaded."""
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
