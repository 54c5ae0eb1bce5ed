"""The columns of the data: names, units and what is possible at all.

The one source for the raw-data check, the requests of the service, its documentation and the drift report.
Nothing heavy is imported here, because every process of the appliance reads it.

Source: R. Kelley Pace and Ronald Barry, "Sparse Spatial Autoregressions", Statistics & Probability Letters 33
(1997) 291-297: the 1990 United States census, one row a block group. The table is the one of scikit-learn's
``fetch_california_housing``.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Column:
    """One column: its meaning, and the closed range outside of which a value cannot be true.

    ``minimum`` and ``maximum`` bound what is possible, not what was seen: a latitude of 91 is wrong, a latitude
    of 47 is merely not California, and the service answers it with a warning.
    """

    name: str
    title: str
    description: str
    unit: str
    minimum: float
    maximum: float
    example: float


FEATURES: tuple[Column, ...] = (
    Column(
        "MedInc", "Median income", "Median household income in the block group",
        "10,000 US dollars of 1990", 0.0, 1_000.0, 8.3252,
    ),
    Column(
        "HouseAge", "House age", "Median age of the houses in the block group",
        "years", 0.0, 500.0, 41.0,
    ),
    Column(
        "AveRooms", "Rooms", "Average number of rooms per household",
        "rooms per household", 0.01, 10_000.0, 6.984126984126984,
    ),
    Column(
        "AveBedrms", "Bedrooms", "Average number of bedrooms per household",
        "bedrooms per household", 0.01, 10_000.0, 1.0238095238095235,
    ),
    Column(
        "Population", "Population", "People living in the block group",
        "people", 1.0, 10_000_000.0, 322.0,
    ),
    Column(
        "AveOccup", "Occupancy", "Average number of people per household",
        "people per household", 0.01, 100_000.0, 2.555555555555556,
    ),
    Column(
        "Latitude", "Latitude", "Latitude of the block group's centre",
        "degrees north", -90.0, 90.0, 37.88,
    ),
    Column(
        "Longitude", "Longitude", "Longitude of the block group's centre",
        "degrees east, so negative in California", -180.0, 180.0, -122.23,
    ),
)  # fmt: skip

TARGET = Column(
    "MedHouseVal", "Median house value", "Median value of the owner-occupied houses; the census capped it at 5.00001",
    "100,000 US dollars of 1990", 0.0, 1_000.0, 4.526,
)  # fmt: skip

FEATURE_NAMES: tuple[str, ...] = tuple(column.name for column in FEATURES)
