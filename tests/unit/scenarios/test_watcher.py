from __future__ import annotations

import pytest

from scenarios.watcher import not_in_the_shadow, obstacle


@pytest.mark.parametrize(
    ("monitor", "words"),
    [
        ({}, ""),
        ({"retrain_on_drift": True, "pauses_until": None}, ""),
        ({"retrain_on_drift": False}, "start the appliance with RETRAIN_ON_DRIFT=on"),
        ({"pauses_until": "2020-01-01T01:00:00+00:00"}, "pauses until 01:00 UTC, 55 minutes from now"),
        ({"pauses_until": "2020-01-01T00:05:30+00:00"}, ""),
    ],
)
def test_a_story_that_cannot_end_well_is_not_begun(monitor: dict[str, object], words: str) -> None:
    said = obstacle({"monitor": monitor}, 1_577_837_100.0)  # five past midnight
    assert words in said
    assert bool(said) == bool(words)


def test_the_story_of_the_shadow_needs_one_that_is_judged() -> None:
    assert not not_in_the_shadow({"monitor": {"promote": "shadow"}})
    for report in ({}, {"monitor": {"promote": "auto"}}):
        assert not_in_the_shadow(report).endswith("start the appliance with PROMOTE=shadow (PROMOTE=shadow make up)")
