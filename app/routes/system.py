"""What the service says about itself: alive, ready, which model, metrics."""

from __future__ import annotations

from fastapi import APIRouter, Request, Response
from prometheus_client import CONTENT_TYPE_LATEST, generate_latest

from app import openapi
from app.errors import NoModelError
from app.metrics import read_health
from app.predictor import Predictor
from app.schemas import Health, ModelCard, Readiness
from tableloop.table import FEATURE_NAMES

router = APIRouter(tags=["system"], responses=openapi.CRASH)


@router.get(
    "/health",
    operation_id="health",
    summary="Is the process alive?",
    responses={200: openapi.answer("It is")},
)
async def health(request: Request) -> Health:
    """Answer, and tell how the watchdog last saw the other services of the appliance."""
    report = read_health(request.app.state.health_file)
    return Health(status="ok", checked_at=report.get("checked_at"), services=report.get("services", {}))


@router.get(
    "/ready",
    operation_id="ready",
    summary="Can it predict?",
    responses={
        200: openapi.answer("It can"),
        503: {"model": Readiness, **openapi.answer("It cannot; `detail` says what it waits for", openapi.NOT_READY)},
    },
)
async def ready(request: Request, response: Response) -> Readiness:
    """Answer 200 with a model and 503 without, in both cases with words for what is going on."""
    predictor: Predictor = request.app.state.predictor
    champion = predictor.keeper.current
    if champion is None:
        response.status_code = 503
    return Readiness(
        status="ready" if champion else "not ready",
        detail=predictor.keeper.state,
        model_version=champion.version if champion else None,
        source=champion.source if champion else None,
        prediction_log="off" if predictor.log is None else predictor.log.problem or "on",
    )


@router.get(
    "/model",
    operation_id="model",
    summary="Which model serves?",
    responses={200: openapi.answer("The version that serves"), 503: openapi.NO_MODEL},
)
async def model(request: Request) -> ModelCard:
    """Describe the version, its scores, and what traces it to data, parameters and code."""
    predictor: Predictor = request.app.state.predictor
    champion = predictor.keeper.current
    if champion is None:
        raise NoModelError(f"there is no model to predict with yet: {predictor.keeper.state}")
    metadata = champion.metadata
    return ModelCard(
        name=request.app.state.settings.model_name,
        alias=request.app.state.settings.model_alias,
        version=champion.version,
        family=champion.family,
        run_id=champion.run_id,
        source=champion.source,
        engine=champion.engine,
        registered_at=champion.registered_at,
        scores=metadata.get("scores", {}),
        interval_coverage=champion.coverage,
        data_md5=metadata.get("data_md5"),
        code_digest=metadata.get("code_digest"),
        training_range=dict(zip(FEATURE_NAMES, champion.training_range, strict=True)),
        limits=metadata.get("limits"),
    )


@router.get(
    "/metrics",
    operation_id="metrics",
    summary="Metrics for Prometheus",
    response_class=Response,
    responses={200: openapi.METRICS},
)
async def metrics(request: Request) -> Response:
    """Answer in the text format of Prometheus: `docs/metrics.md` lists every metric."""
    return Response(generate_latest(request.app.state.metrics.registry), media_type=CONTENT_TYPE_LATEST)
