"""The state of the service: alive, ready, its model, its metrics."""

from __future__ import annotations

from fastapi import APIRouter, Response
from prometheus_client import CONTENT_TYPE_LATEST, generate_latest

from app import openapi
from app.deps import AppParts
from app.metrics import read_health
from app.schemas import TABLE, Health, ModelCard, Readiness

router = APIRouter(tags=["system"], responses=openapi.CRASH)


@router.get(
    "/health",
    operation_id="health",
    summary="Is the service alive?",
    responses={200: openapi.answer("The service is alive")},
)
async def health(parts: AppParts) -> Health:
    """Answer, with the state of the other services as the watchdog last saw it."""
    report = read_health(parts.layout.health)
    return Health(status="ok", checked_at=report.get("checked_at"), services=report.get("services", {}))


@router.get(
    "/ready",
    operation_id="ready",
    summary="Can the service predict?",
    responses={
        200: openapi.answer("The service can predict"),
        503: {
            "model": Readiness,
            **openapi.answer("The service cannot predict; `detail` says why", openapi.NOT_READY),
        },
    },
)
async def ready(parts: AppParts, response: Response) -> Readiness:
    """Answer 200 with a model and 503 without; in both cases `detail` says what the service is doing."""
    predictor = parts.predictor
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
async def model(parts: AppParts) -> ModelCard:
    """Describe the version that serves: its scores, its limits, and the data, code and run that it was made from."""
    champion = parts.predictor.champion()
    metadata = champion.metadata
    return ModelCard(
        name=parts.settings.model_name,
        alias=parts.settings.model_alias,
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
        training_range=dict(zip(TABLE.feature_names, champion.training_range, strict=True)),
        limits=metadata.get("limits"),
    )


@router.get(
    "/metrics",
    operation_id="metrics",
    summary="Metrics for Prometheus",
    response_class=Response,
    responses={200: openapi.METRICS},
)
async def metrics(parts: AppParts) -> Response:
    """Answer in the text format of Prometheus. `docs/metrics.md` lists every metric."""
    return Response(generate_latest(parts.registry), media_type=CONTENT_TYPE_LATEST)
