from __future__ import annotations

import math
from pathlib import Path

import pytest

from scenarios.record import Answer, Record, draw


def test_the_live_error_is_of_one_version_since_a_moment() -> None:
    answers = [Answer(1.0, "1", 3.0, True), Answer(2.0, "1", 4.0, False), Answer(3.0, "2", 9.0, True)]
    record = Record(answers=answers)
    assert record.live("1") == pytest.approx((math.sqrt(12.5), 0.5, 2))
    assert record.live("1", since=1.5) == pytest.approx((4.0, 0.0, 1))
    assert math.isnan(record.live("3")[0])


@pytest.mark.parametrize("story", ["drift", "burst"])
def test_a_picture_is_drawn_of_every_story(story: str, tmp_path: Path) -> None:
    answers = [Answer(at / 10, "1", 0.3, True) for at in range(300)]
    draw(Record(answers=answers, events=[(12.0, "drift")]), story, "dollars", tmp_path / "story.png")
    assert (tmp_path / "story.png").stat().st_size > 10_000
