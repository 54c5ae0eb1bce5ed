from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
import pytest

from pipeline.preprocess import place_in_split, split, split_feedback, superseded, within_share
from pipeline.raw_rows import check
from pipeline.stage_runner import StageError
from tableloop.table import load_table

TABLE = load_table()
FEATURES, FEATURE_NAMES, TARGET = TABLE.features, TABLE.feature_names, TABLE.target


@pytest.fixture
def frame() -> pd.DataFrame:
    """Two thousand rows that differ and are all possible."""
    random = np.random.default_rng(0)
    rows = {column.name: column.example * random.uniform(0.9, 1.1, 2000) for column in (*FEATURES, TARGET)}
    return pd.DataFrame(rows)


def test_good_data_passes_and_comes_in_the_order_of_the_schema(frame: pd.DataFrame) -> None:
    checked = check(frame[frame.columns[::-1]], TABLE)
    assert list(checked) == [*FEATURE_NAMES, TARGET.name]
    assert (checked.dtypes == np.float64).all()


def test_whole_numbers_are_numbers(frame: pd.DataFrame) -> None:
    frame["Population"] = 7
    assert check(frame, TABLE)["Population"].dtype == np.float64


def test_bad_data_lists_every_column_and_its_lines_at_once(frame: pd.DataFrame) -> None:
    frame.loc[3:5, "Latitude"] = 91.0
    frame.loc[9, "Latitude"] = -95.5
    frame.loc[7, "Population"] = np.nan
    frame.loc[1, "AveRooms"] = np.inf
    frame["MedInc"] = frame["MedInc"].astype(object)
    frame.loc[0, "MedInc"] = "rich"
    frame["Colour"] = 1
    frame = frame.drop(columns="HouseAge")
    with pytest.raises(StageError) as caught:
        check(frame, TABLE)
    message = str(caught.value)
    assert message.startswith("6 problems in the raw data\n")
    assert "missing column: HouseAge" in message
    assert "unknown column: Colour" in message
    assert "MedInc: 1 value not a number, line 2 (for example rich)" in message
    assert "AveRooms: 1 value not within 0.01 to 10000, line 3 (for example inf)" in message
    assert "Population: 1 value empty, line 9" in message
    assert "Latitude: 4 values not within -90 to 90, lines 5-7, 11 (for example 91.0, -95.5)" in message


def test_many_bad_rows_stay_readable(frame: pd.DataFrame) -> None:
    frame.loc[::2, "Latitude"] = 91.0
    with pytest.raises(StageError, match="1,000 values not within -90 to 90, lines 2, 4, 6, 8, 10 and 995 more"):
        check(frame, TABLE)


def test_an_empty_table_is_refused(frame: pd.DataFrame) -> None:
    with pytest.raises(StageError, match="no rows"):
        check(frame.head(0), TABLE)


def test_the_parts_have_the_sizes_asked_for_and_share_no_row(frame: pd.DataFrame) -> None:
    parts = split(frame, FEATURE_NAMES, test_fraction=0.2, validation_fraction=0.25)
    sizes = {name: len(part) / len(frame) for name, part in parts.items()}
    assert sizes == pytest.approx({"train": 0.6, "validation": 0.2, "test": 0.2}, abs=0.03)
    assert sum(len(part) for part in parts.values()) == len(frame)
    assert not pd.concat(parts.values()).duplicated().any()


def test_no_row_changes_side_when_rows_are_added_and_shuffled(frame: pd.DataFrame) -> None:
    before = split(frame.head(1000), FEATURE_NAMES, 0.2, 0.2)
    after = split(frame.sample(frac=1, random_state=1), FEATURE_NAMES, 0.2, 0.2)
    for name, part in before.items():
        assert len(part.merge(after[name])) == len(part)


def test_another_label_of_the_same_place_stays_on_its_side(frame: pd.DataFrame) -> None:
    relabelled = frame.assign(**{TARGET.name: 1.0})
    np.testing.assert_array_equal(place_in_split(frame, FEATURE_NAMES), place_in_split(relabelled, FEATURE_NAMES))


def test_the_hash_is_the_same_on_every_machine_and_version() -> None:
    row = pd.DataFrame([{column.name: column.example for column in FEATURES}])
    assert place_in_split(row, FEATURE_NAMES) == pytest.approx(0.4827283425392491, abs=1e-15)


GATE: dict[str, Any] = {"validation_fraction": 0.2, "gate_fraction": 0.3, "gate_rows": 20}


def labelled(frame: pd.DataFrame, *batches: int) -> pd.DataFrame:
    """Return the first rows of a frame as batches of these sizes, predicted one a second."""
    rows = frame.head(sum(batches)).assign(prediction_id=[f"p{i:05d}" for i in range(sum(batches))])
    seconds = np.arange(len(rows), dtype=np.float64)
    batch = np.repeat(np.arange(len(batches)) + 1, batches)
    return rows.assign(predicted_at=seconds, batch=batch, sender="administrator")


def test_the_newest_labels_are_held_out_for_the_gate_and_trained_on_later(frame: pd.DataFrame) -> None:
    first = split_feedback(labelled(frame, 200), TABLE, **GATE)
    gate = first["part"] == "gate"
    assert gate.sum() == 60
    assert first["predicted_at"][gate].min() > first["predicted_at"][~gate].max()
    assert 0.1 < (first["part"][~gate] == "validation").mean() < 0.3
    second = split_feedback(labelled(frame, 200, 100), TABLE, **GATE)
    assert (second["part"] == "gate").sum() == 30
    assert set(second["part"][140:200]) == {"train", "validation"}
    kept = second["part"][:140].reset_index(drop=True)
    assert kept.equals(first["part"][:140])


def test_too_few_labels_are_all_trained_on(frame: pd.DataFrame) -> None:
    assert set(split_feedback(labelled(frame, 60), TABLE, **GATE)["part"]) == {"train", "validation"}


def test_late_labels_of_old_predictions_are_not_for_the_gate(frame: pd.DataFrame) -> None:
    batches = labelled(frame, 100, 100)
    batches.loc[batches["batch"] == 2, "predicted_at"] -= 150
    assert "gate" not in set(split_feedback(batches, TABLE, **GATE)["part"])


def test_a_row_counts_with_its_newest_label(frame: pd.DataFrame) -> None:
    batches = labelled(frame, 100)
    again = batches.assign(predicted_at=batches["predicted_at"] + 1000, batch=2)
    again[TARGET.name] = 7.0
    rows = split_feedback(pd.concat([batches, again]), TABLE, **GATE)
    assert len(rows) == 100
    assert (rows[TARGET.name] == 7.0).all()


def test_no_place_has_labels_on_both_sides_of_the_gate(frame: pd.DataFrame) -> None:
    batches = labelled(frame, 1000)
    batches["Latitude"] = 35 + np.arange(1000) % 40 / 10
    batches["Longitude"] = -120.0
    rows = split_feedback(batches, TABLE, **GATE)
    places = {part: set(rows["Latitude"][rows["part"] == part]) for part in ("train", "validation", "gate", "aside")}
    assert not places["gate"] & (places["train"] | places["validation"])
    assert len(places["gate"]) > 10
    assert len(places["train"]) > 10
    assert places["aside"]


def without(
    parts: dict[str, pd.DataFrame], feedback: pd.DataFrame, *, least: int
) -> tuple[dict[str, pd.DataFrame], pd.DataFrame]:
    """Return the parts without the rows that are superseded, and the feedback."""
    keys = {name: pd.Series(place_in_split(part, FEATURE_NAMES)) for name, part in parts.items()}
    leave, feedback = superseded(keys, len(parts["test"]), feedback, FEATURE_NAMES, least)
    return {
        name: part.drop(index=leave[name].tolist()).reset_index(drop=True) for name, part in parts.items()
    }, feedback


def test_a_raw_row_that_came_back_takes_no_part_any_more(frame: pd.DataFrame) -> None:
    parts = split(frame, FEATURE_NAMES, 0.2, 0.2)
    feedback = split_feedback(labelled(frame, 500), TABLE, **GATE)
    kept, same = without(parts, feedback, least=20)
    assert same is feedback
    trained = feedback[feedback["part"].isin(["train", "validation"])]
    rest = pd.concat(kept.values())
    assert len(rest) == len(frame) - len(trained)
    assert not rest.merge(trained, on=list(FEATURE_NAMES)).size


def test_the_test_part_never_runs_empty(frame: pd.DataFrame) -> None:
    parts = split(frame, FEATURE_NAMES, 0.2, 0.2)
    feedback = split_feedback(labelled(parts["test"], len(parts["test"])), TABLE, **GATE)
    kept, feedback = without(parts, feedback, least=200)
    assert len(kept["test"]) == len(parts["test"])
    assert set(feedback["part"]) == {"aside", "gate"}


def test_without_labels_nothing_changes(frame: pd.DataFrame) -> None:
    parts = split(frame, FEATURE_NAMES, 0.2, 0.2)
    kept, feedback = without(parts, split_feedback(labelled(frame, 0), TABLE, **GATE), least=20)
    assert feedback.empty
    for name, part in parts.items():
        pd.testing.assert_frame_equal(kept[name], part)


@pytest.mark.parametrize(
    ("senders", "share", "others", "kept"),
    [
        ({"crm": 100}, 0.5, 0, {}),  # of one alone nothing is at most half of all
        ({"crm": 100}, 1.0, 0, {"crm": 100}),
        ({"crm": 100, "shop": 40}, 0.5, 0, {"crm": 40, "shop": 40}),
        ({"crm": 100, "administrator": 30}, 0.5, 0, {"crm": 30, "administrator": 30}),
        ({"crm": 100, "erp (admin)": 10}, 0.5, 10, {"crm": 20, "erp (admin)": 10}),
        ({"administrator": 100}, 0.1, 0, {"administrator": 100}),
        ({"crm": 30}, 0.25, 100, {"crm": 30}),
        ({"crm": 300}, 0.25, 99, {"crm": 33}),
    ],
)
def test_no_sender_is_more_than_a_share(
    senders: dict[str, int], share: float, others: int, kept: dict[str, int]
) -> None:
    column = pd.Series([name for name, count in senders.items() for _ in range(count)], dtype=object)
    stays = within_share(column, share, others)
    assert column[stays].value_counts().to_dict() == kept
    for name, count in kept.items():  # the newest stay
        assert stays[np.flatnonzero(column == name)[-count:]].all()


def test_labels_before_senders_are_not_bounded() -> None:
    assert within_share(pd.Series([None, None, "crm"], dtype=object), 0.5).all()


def test_a_single_sender_does_not_decide_the_gate(frame: pd.DataFrame) -> None:
    labels = labelled(frame, 200).assign(sender="crm")
    parts = split_feedback(labels, TABLE, **GATE, gate_share=0.5, learnt_share=0.25, others=1000)["part"]
    assert "gate" not in set(parts)
    assert set(parts) == {"train", "validation"}
    bounded = split_feedback(labels, TABLE, **GATE, gate_share=0.5, learnt_share=0.25, others=90)["part"]
    assert bounded.isin(["train", "validation"]).sum() == 30


def test_labels_of_a_bounded_sender_take_no_row_out_of_the_test(frame: pd.DataFrame) -> None:
    parts = split(frame, FEATURE_NAMES, 0.2, 0.2)
    again = labelled(parts["test"], 30)
    for sender, lost in (("crm", 0), ("administrator", 30)):
        feedback = split_feedback(again.assign(sender=sender), TABLE, **GATE | {"gate_rows": 0})
        kept, feedback = without(parts, feedback, least=20)
        assert len(parts["test"]) - len(kept["test"]) == lost
        assert (feedback["part"] == "aside").sum() == 30 - lost
