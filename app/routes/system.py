"""The state of the service: alive, ready, its model, its metrics."""

from __future__ import annotations

from fastapi import APIRouter, Response
from prometheus_client import CONTENT_TYPE_LATEST, generate_latest

from app import openapi
from app.deps import AppParts
from app.metrics import read_health
from app.schemas import TABLE, Health, Importance, ModelCard, Readiness

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
            **openapi.answer(
                "The service cannot predict, or not store predictions; `detail` says why", openapi.NOT_READY
            ),
        },
    },
)
async def ready(parts: AppParts, response: Response) -> Readiness:
    """Answer 200 with a model and a prediction log that can be written, else 503; `detail` says what is wrong."""
    predictor = parts.predictor
    champion = predictor.keeper.current
    problem = predictor.log.problem if predictor.log else None
    others = None if parts.processes.others_have_models else "another process of the service has no model yet"
    if parts.processes.draining:
        others = "this copy of the service is told to stop: others answer"
    well = champion is not None and problem is None and others is None
    if not well:
        response.status_code = 503
    return Readiness(
        status="ready" if well else "not ready",
        detail=((problem or others) if champion else None) or predictor.keeper.state,
        model_version=champion.version if champion else None,
        source=champion.source if champion else None,
        matches_registry=predictor.keeper.matches,
        prediction_log="off" if predictor.log is None else problem or "on",
        processes=parts.processes.taking,
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
    names = ("version", "run_id", "source", "engine", "registered_at")
    described = champion.metadata.model_dump(exclude={"training_range", "kinds", "importance"})
    titles = {input_.name: input_.title for input_ in TABLE.inputs}
    return ModelCard(
        name=parts.settings.model_name,
        alias=parts.settings.model_alias,
        **{name: getattr(champion, name) for name in names},
        **described,
        importance=[
            Importance(name=name, title=titles[name], rmse_rise=rise)
            # The file of a version keeps no order.
            for name, rise in sorted(champion.metadata.importance.items(), key=lambda one: -one[1])
            if name in titles
        ],
        training_range={
            column.name: [*known] if column.is_number else [*map(column.written, known)]
            for column, known in zip(TABLE.features, champion.known, strict=True)
            if isinstance(known, tuple)
        },
    )


@router.get(
    "/metrics",
    operation_id="metrics",
    summary="Metrics for Prometheus",
    response_class=Response,
    responses={200: openapi.METRICS},
)
def metrics(parts: AppParts) -> Response:
    """Answer in the text format of Prometheus. `docs/metrics.md` lists every metric."""
    # In a thread: a store that does not answer must not halt everything else, nor have the process seem to hang.
    return Response(generate_latest(parts.registry), media_type=CONTENT_TYPE_LATEST)
