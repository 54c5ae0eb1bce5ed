"""The gate: whether a new version takes the place of the one that serves.

- Labels decide, where enough of them (`preprocess.gate_rows`) are newer than everything that either model was trained
  on: of the held-out labels both models predict the same rows, which are then drawn again with replacement
  `RESAMPLES` times. The challenger passes when in at least `CONFIDENCE` of these samples its RMSE is no larger than
  the champion's and the tolerance. In an unchanged market two good models differ by chance, and the champion stays.
- Without them the old test rows decide: the challenger's RMSE may be larger by the tolerance at most.
- Both figures are reported, whichever decides. A changed market makes a model that knows it worse on the old rows,
  but not by more than ``most_fall`` times: further than that only a person goes.
- The first version passes. A version that was rolled back or rejected by hand does not pass again, and no version
  passes a champion that could not be scored: a gate that cannot judge says no.
- With PROMOTE=shadow a version that passes is tried on the requests to come (`judge_shadow`). So is one that only the
  old test rows speak against, unless it fell too far: in a changed market these rows say little.
- A person may overrule all of that with a reason, but not a compiled scorer that answers otherwise than the model.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field, replace

import numpy as np
import numpy.typing as npt

from tableloop.figures import error_figure

RESAMPLES = 2000
CONFIDENCE = 0.95
LARGE_FALL = 1.25  # times the champion's RMSE on the old rows: said loudly
NAMED_SENDERS = 5
Vector = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Decision:
    """What the gate says: "promoted", "waiting", "rejected" or "unchanged", and on what figures."""

    gate: str
    reason: str
    challenger_rmse: float | None  # on the old test rows, as the next one
    champion_rmse: float | None = None
    champion_version: str | None = None
    decided_by: str | None = None  # "labels", "test rows" or "shadow"
    labels: int = 0
    challenger_label_rmse: float | None = None
    champion_label_rmse: float | None = None
    share_no_worse: float | None = None
    forced_by: str | None = None
    forced_reason: str | None = None


@dataclass(frozen=True)
class Challenger:
    """What the gate knows of a new version before any comparison."""

    test_rmse: float
    serves: bool = False  # it is the champion itself
    scorer_failure: str | None = None  # why its compiled scorer is not sound
    rolled_back: str | None = None  # why its users wanted the former version again
    rejected: str | None = None  # who did not want it, and why


@dataclass(frozen=True)
class Held:
    """Labels that neither model has seen: actual values, what both predict, each of shape (n,), and who sent them."""

    actual: Vector
    challenger: Vector
    champion: Vector
    senders: Mapping[str, int] = field(default_factory=dict)  # how many labels of each


@dataclass(frozen=True)
class Limits:
    """How much worse a challenger may be on the old rows: by a fraction where these decide, or else so many times."""

    tolerance: float
    most_fall: float = math.inf


@dataclass(frozen=True)
class Scores:
    """What the champion's own code says of the rows that the challenger was scored on."""

    test_rmse: float
    held: Held | None = None


@dataclass(frozen=True)
class NotScored:
    """Why the champion could not be scored."""

    reason: str


@dataclass(frozen=True)
class Forced:
    """Who lets the challenger pass whatever the comparison says, and why."""

    by: str
    reason: str


def decide(
    challenger: Challenger,
    champion_version: str | None,
    scores: Scores | NotScored | None,
    limits: Limits,
    forced: Forced | None = None,
) -> Decision:
    """Return the decision; ``scores`` may be None where `decide_unscored` has an answer."""
    decision = decide_unscored(challenger, champion_version)
    if decision is None:
        assert champion_version is not None
        assert scores is not None
        decision = _compare(challenger, champion_version, scores, limits)
    if forced is None or decision.gate != "rejected" or challenger.scorer_failure:
        return decision
    return replace(
        decision,
        gate="promoted",
        reason=f"forced by {forced.by}: {forced.reason}. Otherwise rejected: {decision.reason}",
        forced_by=forced.by,
        forced_reason=forced.reason,
    )


def ask_first(decision: Decision, version: str) -> Decision:
    """Return the decision where a person has the last word: what would be promoted waits.

    The first version does not wait, as nothing would serve.
    """
    if decision.gate != "promoted" or decision.champion_version is None:
        return decision
    question = f"make promote VERSION={version} or make reject VERSION={version}"
    return replace(decision, gate="waiting", reason=f"{decision.reason}. It waits for {question}")


def try_first(decision: Decision, limits: Limits, least: int) -> Decision:
    """Return the decision where labels of requests to come have the last word, at least so many.

    Besides what would be promoted, what only the old test rows speak against waits for them.
    """
    passes = decision.gate == "promoted" and decision.champion_version is not None
    on_test_only = decision.gate == "rejected" and decision.decided_by == "test rows"
    if on_test_only:
        assert decision.challenger_rmse is not None
        assert decision.champion_rmse is not None
        passes = decision.challenger_rmse <= limits.most_fall * decision.champion_rmse
    if not passes:
        return decision
    until = f"It is in the shadow until {least:,} or more labels of new requests judge it"
    return replace(decision, gate="waiting", reason=f"{decision.reason}. {until}")


def decide_unscored(challenger: Challenger, champion_version: str | None) -> Decision | None:
    """Return the decision where it does not depend on the champion's scores, else None."""
    rmse = challenger.test_rmse
    if challenger.serves:
        return Decision("unchanged", "the best run is the version that serves", rmse, rmse, champion_version)
    if challenger.scorer_failure:
        return Decision("rejected", challenger.scorer_failure, rmse, champion_version=champion_version)
    if challenger.rolled_back is not None:
        reason = f"it was rolled back: {challenger.rolled_back}"
        return Decision("rejected", reason, rmse, champion_version=champion_version)
    if challenger.rejected is not None:
        reason = f"it was rejected {challenger.rejected}"
        return Decision("rejected", reason, rmse, champion_version=champion_version)
    if champion_version is None:
        return Decision("promoted", "no version served before", rmse)
    return None


def _compare(challenger: Challenger, champion_version: str, scores: Scores | NotScored, limits: Limits) -> Decision:
    if isinstance(scores, NotScored):
        reason = f"version {champion_version} could not be scored: {scores.reason}"
        return Decision("rejected", reason, challenger.test_rmse, champion_version=champion_version)
    return judge(challenger.test_rmse, scores.test_rmse, champion_version, limits, scores.held)


def judge(
    challenger_rmse: float, champion_rmse: float, champion_version: str, limits: Limits, held: Held | None = None
) -> Decision:
    """Return whether the challenger may take the champion's place.

    The RMSE are of the same test rows; they decide when there are no labels to do it.
    """
    limit = champion_rmse * (1 + limits.tolerance)
    on_test = (
        f"test RMSE {error_figure(challenger_rmse, 4)} against {error_figure(champion_rmse, 4)} of version "
        f"{champion_version} on the same rows"
    )
    if held is None:
        passed = challenger_rmse <= limit
        return Decision(
            "promoted" if passed else "rejected",
            f"{on_test}; at most {error_figure(limit, 4)} passes",
            challenger_rmse,
            champion_rmse,
            champion_version,
            decided_by="test rows",
        )
    ours, theirs = (held.challenger - held.actual) ** 2, (held.champion - held.actual) ** 2
    share = share_no_worse(ours, theirs, limits.tolerance)
    ours_rmse, theirs_rmse = float(np.sqrt(ours.mean())), float(np.sqrt(theirs.mean()))
    reason = (
        f"RMSE {error_figure(ours_rmse, 4)} against {error_figure(theirs_rmse, 4)} of version {champion_version} on "
        f"{len(ours):,} labels that "
        f"neither was trained on; no worse in {share:.1%} of {RESAMPLES:,} samples of them, at least "
        f"{CONFIDENCE:.0%} passes. On the old rows: {on_test}{_senders(held.senders)}"
    )
    fell_far = challenger_rmse > limits.most_fall * champion_rmse
    if fell_far:
        reason = (
            f"ON THE OLD ROWS IT FALLS TO {challenger_rmse / champion_rmse:.1f} times the RMSE; at most "
            f"{limits.most_fall:g} times passes. If the labels are right, make retrain FORCE=1 REASON=... lets it "
            f"pass. {reason}"
        )
    elif challenger_rmse > LARGE_FALL * champion_rmse:
        reason = f"{reason}. NOTE: on the old rows it falls to {challenger_rmse / champion_rmse:.1f} times the RMSE"
    return Decision(
        "promoted" if share >= CONFIDENCE and not fell_far else "rejected",
        reason,
        challenger_rmse,
        champion_rmse,
        champion_version,
        decided_by="labels",
        labels=len(ours),
        challenger_label_rmse=round(ours_rmse, 6),
        champion_label_rmse=round(theirs_rmse, 6),
        share_no_worse=share,
    )


def confidence(looks: int) -> float:
    """Return the share of samples that decides at the next look, when there were so many before.

    Who looks often is misled by chance some time. Each look may err half as often as the one before it, so that all
    together err no oftener than one look with `CONFIDENCE` would.
    """
    return 1.0 - (1.0 - CONFIDENCE) / float(2 << looks)


def judge_shadow(held: Held, champion_version: str, looks: int, tolerance: float) -> Decision:
    """Return what labels of requests say of a version in the shadow; "waiting" where they do not say it yet.

    ``held`` has the labels of requests that the champion has answered since the version is in the shadow: they came
    after both were trained, though a row of theirs may have been known before. ``looks`` is how often they were
    looked at before.
    """
    ours, theirs = (held.challenger - held.actual) ** 2, (held.champion - held.actual) ** 2
    share, needed = share_no_worse(ours, theirs, tolerance), confidence(looks)
    ours_rmse, theirs_rmse = float(np.sqrt(ours.mean())), float(np.sqrt(theirs.mean()))
    reason = (
        f"RMSE {error_figure(ours_rmse, 4)} against {error_figure(theirs_rmse, 4)} of version {champion_version} on "
        f"{len(ours):,} labels of requests, scored in the shadow; no worse in {share:.1%} of {RESAMPLES:,} samples "
        f"of them, at least {needed:.2%} promotes, at most {1 - needed:.2%} rejects{_senders(held.senders)}"
    )
    gate = "promoted" if share >= needed else "rejected" if share <= 1.0 - needed else "waiting"
    return Decision(
        gate,
        reason,
        challenger_rmse=None,
        champion_version=champion_version,
        decided_by="shadow",
        labels=len(ours),
        challenger_label_rmse=round(ours_rmse, 6),
        champion_label_rmse=round(theirs_rmse, 6),
        share_no_worse=share,
    )


def _senders(senders: Mapping[str, int]) -> str:
    """Return who sent the labels, the most first."""
    if not senders:
        return ""
    most = sorted(senders.items(), key=lambda sender: (-sender[1], sender[0]))
    named = ", ".join(f"{name} {count:,}" for name, count in most[:NAMED_SENDERS])
    more = f" and {len(most) - NAMED_SENDERS} more" if len(most) > NAMED_SENDERS else ""
    return f". The labels are of: {named}{more}"


def share_no_worse(ours: Vector, theirs: Vector, tolerance: float) -> float:
    """Return the share of bootstrap samples in which the first RMSE is no larger than the second and the tolerance.

    Paired: a sample takes the squared errors (n,) of both for the same rows, so what makes a row hard for both
    cancels (Efron and Tibshirani 1993, "An Introduction to the Bootstrap", chapter 8).
    """
    # With squared errors, the tolerance on the RMSE is squared. A NaN on either side is never "no larger".
    difference = ours - theirs * (1 + tolerance) ** 2
    random = np.random.default_rng(0)
    count = len(difference)
    sums = [float(difference[random.integers(0, count, count)].sum()) for _ in range(RESAMPLES)]
    return float(np.mean(np.array(sums) <= 0.0))
