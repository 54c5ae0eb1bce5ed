"""What is known of each registered version: of the registry, of the store, and of its labels.

Reading all of it takes some twenty calls of the registry and as many queries. One thread does it at a time, whoever
asks meanwhile waits without one, and what it has read is the answer for some seconds.
"""

from __future__ import annotations

import asyncio
import http.client
import math
import time
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import Any, Final, NamedTuple
from urllib.parse import quote

from starlette.concurrency import run_in_threadpool

from app.champion import Champion, Keeper
from app.labels import LIVE_WINDOW, Live, LiveErrors
from app.metrics import read_health
from app.schemas import GateWords, LiveScores, RegisteredVersion, ServingEvent, ShadowTime, Versions
from tableloop.mlflow_http import find_aliases, run_metrics, search_versions
from tableloop.settings import Settings
from tableloop.state import shadows
from tableloop.state.database import Serving, Store
from tableloop.state.errors import StoreError
from tableloop.state.layout import Layout

MOST: Final = 20  # versions
KEPT_SECONDS: Final = 5.0
ANSWER_SECONDS: Final = 5.0  # of the registry, for all that it is asked
EVENTS: Final = 1000  # the newest, among which those of each version are looked for
EVENTS_OF_ONE: Final = 20
TIMES: Final = 100  # in the shadow, of all versions
SCORES: Final = ("custom_", "test_")  # begin the names of the metrics of a run that a card shows
NO_REGISTRY: Final = "only what the store knows is shown"


class Registered(NamedTuple):
    """A version as the registry describes it; the store knows no more than its number and perhaps its run."""

    number: str
    run_id: str
    registered_at: str | None = None
    tags: Mapping[str, str] = {}
    aliases: Sequence[str] = ()
    scores: Mapping[str, float] = {}


class Remembered(NamedTuple):
    """What the store says of all versions, the newest first."""

    events: list[Serving]
    times: list[shadows.Shadow]
    live: dict[str, Live]


class VersionHistory:
    """Reads what is known of the newest versions, for all who ask within some seconds."""

    def __init__(self, settings: Settings, store: Store, keeper: Keeper, live_errors: LiveErrors) -> None:
        self._settings = settings
        self._store = store
        self._keeper = keeper
        self._live_errors = live_errors
        self._turn = asyncio.Lock()
        self._kept: Versions | StoreError | None = None
        self._kept_until = 0.0
        self._scores: dict[str, dict[str, float]] = {}  # by run: those of a run that has ended do not change

    async def newest(self, limit: int) -> Versions:
        """Return the newest versions, the newest first.

        Raises
        ------
        StoreError
            The store cannot be read. That the registry does not answer is said in the answer.
        """
        async with self._turn:
            if self._kept is None or time.monotonic() > self._kept_until:
                try:
                    self._kept = await run_in_threadpool(self._read)
                except StoreError as error:
                    self._kept = error
                self._kept_until = time.monotonic() + KEPT_SECONDS
            kept = self._kept
        if isinstance(kept, StoreError):
            raise StoreError(str(kept))
        return kept.model_copy(update={"versions": kept.versions[:limit]})

    def _read(self) -> Versions:
        name, champion = self._settings.model_name, self._keeper.current
        remembered = Remembered(
            self._store.serving_history(name, EVENTS),
            shadows.history(self._store, name, TIMES),
            self._live_errors.by_version(),
        )
        found, problem = self._ask_registry()
        if found is None:
            found = _of_the_store(remembered, champion)
        mlflow = read_health(Layout(self._settings.state_dir).health).get("services", {}).get("mlflow", {})
        address = "" if self._settings.test_mode else str(mlflow.get("address") or "")
        return Versions(
            name=name,
            alias=self._settings.model_alias,
            serves=champion.version if champion else None,
            asked_at=_iso(time.time()),
            problem=problem,
            versions=[self._described(one, remembered, champion, address) for one in found],
        )

    def _ask_registry(self) -> tuple[list[Registered] | None, str | None]:
        """Return the newest versions, None when the registry does not answer; and what is missing, if anything."""
        settings = self._settings
        if settings.test_mode:
            return None, f"there is no registry in TEST_MODE: {NO_REGISTRY}"
        uri, name, login = settings.mlflow_tracking_uri, settings.model_name, settings.registry_login
        deadline = time.monotonic() + ANSWER_SECONDS

        def left() -> float:
            if (seconds := deadline - time.monotonic()) <= 0:
                raise TimeoutError(f"it took longer than {ANSWER_SECONDS:g} s")
            return seconds

        found: list[Registered] | None = None
        try:
            aliases = find_aliases(uri, name, seconds=left(), login=login)
            described = search_versions(uri, name, MOST, seconds=left(), login=login)
            found = [_registered(one, aliases) for one in described]
            runs = [one.run_id for one in found if one.run_id]
            self._scores = {run: scores for run, scores in self._scores.items() if run in runs}
            for run in runs:
                if run not in self._scores:
                    self._scores[run] = _scores(run_metrics(uri, run, seconds=left(), login=login))
        except (OSError, http.client.HTTPException, ValueError, KeyError, TypeError, AttributeError) as error:
            said = f"the registry does not answer ({_brief(error)})"
            if found is None:
                return None, f"{said}: {NO_REGISTRY}"
            return self._with_scores(found), f"{said}: scores of some versions are missing"
        return self._with_scores(found), None

    def _with_scores(self, found: list[Registered]) -> list[Registered]:
        return [one._replace(scores=self._scores.get(one.run_id, {})) for one in found]

    def _described(
        self, found: Registered, remembered: Remembered, champion: Champion | None, mlflow: str
    ) -> RegisteredVersion:
        """Return all that is known of one version; ``champion`` is the version that serves."""
        number, tags = found.number, found.tags
        if champion is None or (champion.version, champion.run_id) != (number, found.run_id):
            champion = None
        card = champion.metadata if champion else None
        name = quote(self._settings.model_name, safe="")
        return RegisteredVersion(
            version=number,
            serves=champion is not None,
            aliases=sorted(found.aliases),
            family=tags.get("family") or (card.family if card else None),
            run_id=found.run_id or None,
            link=f"{mlflow.rstrip('/')}/#/models/{name}/versions/{quote(number, safe='')}" if mlflow else None,
            registered_at=found.registered_at or (champion.registered_at if champion else None),
            data_md5=tags.get("data_md5") or (card.data_md5 if card else None),
            label_batches=_count(tags, "feedback_batches"),
            revocations=_count(tags, "revocations"),
            trained_until=_time(tags, "trained_until"),
            scores={**(card.scores if card else {}), **found.scores},
            live=_live(remembered.live.get(number)),
            shadow=[
                self._in_shadow(shadow) for shadow in remembered.times if _is_of(shadow.version, shadow.run_id, found)
            ],
            gate=_gate(tags),
            rolled_back=tags.get("rolled_back"),
            rejected=tags.get("rejected_by_hand") or tags.get("rejected_in_shadow"),
            history=[
                ServingEvent(at=_iso(event.at), event=event.event, detail=event.detail)
                for event in remembered.events
                if _is_of(event.version, event.run_id, found)
            ][:EVENTS_OF_ONE],
            git_commit=tags.get("git_commit"),
            code_digest=tags.get("code_digest") or (card.code_digest if card else None),
        )

    def _in_shadow(self, shadow: shadows.Shadow) -> ShadowTime:
        """Return a time in the shadow with the errors of both versions on the same rows."""
        rows = shadows.compared(self._store, shadow, None, LIVE_WINDOW)
        answered = [(row.prediction - row.actual, row.low <= row.actual <= row.high) for row in rows]
        own = [(row.shadow - row.actual, row.shadow_low <= row.actual <= row.shadow_high) for row in rows]
        return ShadowTime(
            began_at=_iso(shadow.began_at),
            ended_at=None if shadow.ended_at is None else _iso(shadow.ended_at),
            outcome=shadow.outcome,
            reason=shadow.reason,
            problem=shadow.problem if shadow.failures else "",
            scored=shadow.scored,
            live=_live(Live.of(own)),
            answered=_live(Live.of(answered)),
        )


def _of_the_store(remembered: Remembered, champion: Champion | None) -> list[Registered]:
    """Return the newest versions that the store or the service knows of, one of each number, the newest first."""
    runs = {champion.version: champion.run_id} if champion else {}
    for event in remembered.events:
        runs.setdefault(event.version, event.run_id)
    for shadow in remembered.times:
        runs.setdefault(shadow.version, shadow.run_id)
    for version in remembered.live:
        runs.setdefault(version, "")
    newest = sorted(runs, key=lambda number: int(number) if number.isdecimal() else 0, reverse=True)
    return [Registered(number, runs[number]) for number in newest[:MOST]]


def _registered(described: Mapping[str, Any], aliases: Mapping[str, list[str]]) -> Registered:
    number = str(described["version"])
    return Registered(
        number,
        str(described.get("run_id") or ""),
        _iso(int(described["creation_timestamp"]) / 1000),
        {str(tag["key"]): str(tag.get("value", "")) for tag in described.get("tags", [])},
        aliases.get(number, ()),
    )


def _scores(metrics: Mapping[str, float]) -> dict[str, float]:
    return {
        name: value for name, value in sorted(metrics.items()) if name.startswith(SCORES) and math.isfinite(value)
    }


def _is_of(version: str, run_id: str, found: Registered) -> bool:
    """Return whether this is about a version: the same number may be that of another registry."""
    return version == found.number and (not found.run_id or run_id == found.run_id)


def _live(live: Live | None) -> LiveScores | None:
    return LiveScores(rmse=live.rmse, coverage=live.coverage, labels=live.labels) if live else None


def _gate(tags: Mapping[str, str]) -> GateWords | None:
    """Return what the gate wrote on a version; figures that it cannot have written are left out."""
    if "gate" not in tags:
        return None
    return GateWords(
        gate=tags["gate"],
        reason=tags.get("gate_reason", ""),
        decided_by=tags.get("gate_decided_by"),
        champion_version=tags.get("gate_champion_version"),
        test_rmse=_number(tags, "gate_challenger_rmse"),
        champion_test_rmse=_number(tags, "gate_champion_rmse"),
        labels=_count(tags, "gate_labels"),
        label_rmse=_number(tags, "gate_challenger_label_rmse"),
        champion_label_rmse=_number(tags, "gate_champion_label_rmse"),
        share_no_worse=_number(tags, "gate_share_no_worse"),
        forced=_forced(tags),
        promoted_by=tags.get("gate_promoted_by"),
    )


def _forced(tags: Mapping[str, str]) -> str | None:
    by, reason = tags.get("gate_forced_by"), tags.get("gate_forced_reason", "")
    return None if by is None else f"{by}: {reason}"


def _number(tags: Mapping[str, str], name: str) -> float | None:
    """Return the number that a tag holds, None where it holds none: anybody may have written it."""
    try:
        value = float(tags[name])
    except (KeyError, ValueError):
        return None
    return value if math.isfinite(value) else None


def _count(tags: Mapping[str, str], name: str) -> int:
    return max(0, int(_number(tags, name) or 0))


def _time(tags: Mapping[str, str], name: str) -> str | None:
    """Return the time that a tag holds in seconds since 1970, None where no calendar has it."""
    seconds = _number(tags, name)
    try:
        return None if seconds is None else _iso(seconds)
    except (ValueError, OverflowError, OSError):
        return None


def _iso(seconds: float) -> str:
    return datetime.fromtimestamp(seconds, UTC).isoformat(timespec="seconds")


def _brief(error: BaseException) -> str:
    return (str(error).strip() or type(error).__name__)[:200]
