from __future__ import annotations

import pytest

from tableloop.figures import error_figure, figure


@pytest.mark.parametrize(
    ("value", "written"),
    [
        (3.53512, "3.535"),
        (1234.4, "1234"),
        (13_270.42, "13,270"),
        (-250_000.0, "-250,000"),
        (0.00012345, "0.0001234"),
        ("2013-05-06", "2013-05-06"),
        (None, "-"),
    ],
)
def test_a_figure_has_four_digits_and_no_power_of_ten_where_people_read_none(
    value: float | str | None, written: str
) -> None:
    assert figure(value) == written


@pytest.mark.parametrize(
    ("error", "written"),
    [(0.3614, "0.361"), (12.5, "12.500"), (4512.34, "4512"), (20_000.4, "20,000"), (0.00213, "0.00213"), (0.0, "0")],
)
def test_an_error_is_written_in_the_scale_of_its_target(error: float, written: str) -> None:
    assert error_figure(error) == written
