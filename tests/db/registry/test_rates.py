"""What was measured of a model's precisions: another one is chosen only beyond doubt."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa

from db.base.database import write, writing
from db.base.schema import films
from db.base.totals import day_totals
from db.registry import aliases, models, rates
from db.registry.rates import Rate
from tests.db import given

XEON, ORIN = "OpenVINO 2026.1 on Xeon", "TensorRT 10.3.0 on Orin (8.7)"


def keep(database: sa.Engine, *measured: Rate, kind: str = XEON, **options: Any) -> str:
    values: dict[str, Any] = {"batch": 8, "rounds": 12, "who": "w", **options}
    return write(database, lambda c: rates.keep(c, 1, kind, measured, **values))


def history(database: sa.Engine) -> list[str]:
    """What the model's history says of its precision."""
    events = models.detail(database, 1)["events"]
    return [event["detail"] for event in events if event["event"] == "precision"]


INT8 = Rate("int8", 800.0)


@pytest.mark.parametrize(
    ("others", "rounds", "best"),
    [
        ([], 12, "int8"),
        ([Rate("bf16", 1100.0, (1.38, 1.31, 1.44))], 12, "bf16"),
        ([Rate("bf16", 1100.0, (1.38, 1.31, 1.44))], 9, "int8"),
        ([Rate("bf16", 900.0, (1.13, 1.10, 1.16))], 12, "int8"),
        ([Rate("bf16", 900.0, (1.13, 1.101, 1.16))], 12, "bf16"),
        ([Rate("bf16", 500.0, (0.7, 0.6, 0.8)), Rate("fp32", 300.0, (0.4, 0.3, 0.5))], 12, "int8"),
        ([Rate("bf16", 1100.0, (1.38, 1.3, 1.4)), Rate("fp32", 990.0, (1.2, 1.15, 1.3))], 12,
         "bf16"),
        # The faster one by its middle, of which the interval says less, does not take the place.
        ([Rate("bf16", 1100.0, (1.38, 0.9, 1.8)), Rate("fp32", 990.0, (1.2, 1.15, 1.3))], 12,
         "fp32"),
    ],
)  # fmt: skip
def test_another_precision_is_chosen_where_its_interval_lies_above_the_margin(
    database: sa.Engine, others: list[Rate], rounds: int, best: str
) -> None:
    assert rates.chosen(database, 1, XEON) is None
    assert keep(database, INT8, *others, rounds=rounds) == best
    assert rates.chosen(database, 1, XEON) == best
    assert rates.chosen(database, 1, ORIN) is None
    assert [row["precision"] for row in rates.of_model(database, 1) if row["chosen"]] == [best]
    assert len(rates.of_model(database, 1)) == 1 + len(others)


def test_a_change_is_in_the_model_s_history_and_no_change_is_not(database: sa.Engine) -> None:
    keep(database, INT8, Rate("bf16", 700.0, (0.9, 0.85, 0.95)))
    assert history(database) == []
    keep(database, INT8, Rate("bf16", 1100.0, (1.38, 1.31, 1.44)))
    assert history(database) == [
        f"auto is bf16 in place of int8 on {XEON}: 1.38 times as fast (95 % interval 1.31 to 1.44, "
        "12 rounds)"
    ]


def test_what_is_measured_again_takes_the_place_of_what_was(database: sa.Engine) -> None:
    keep(database, INT8, Rate("bf16", 1100.0, (1.38, 1.31, 1.44)))
    keep(database, Rate("bf16", 1000.0), Rate("int8", 900.0, (0.9, 0.85, 0.95)), kind=ORIN)
    keep(database, Rate("bf16", 1000.0), batch=32)
    rows = [row for row in rates.of_model(database, 1) if row["kind"] == XEON]
    assert [(row["precision"], row["batch"], row["ratio"]) for row in rows] == [("bf16", 32, None)]
    assert rows[0]["chosen"] and rows[0]["measured_by"] == "w"


def test_of_two_workers_that_measure_at_once_the_first_one_s_rows_stay(
    database: sa.Engine,
) -> None:
    def measured(who: str) -> Callable[[], str]:
        faster = Rate("bf16", 1100.0, (1.38, 1.31, 1.44))
        return lambda: keep(database, INT8, faster, who=who, only_new=True)

    assert given.together(*[measured(f"w{n}") for n in range(6)]) == ["bf16"] * 6
    assert len({row["measured_by"] for row in rates.of_model(database, 1)}) == 1
    assert len(history(database)) == 1


ALL = ("int8", "bf16", "fp16", "fp32")


def test_where_a_kind_of_worker_was_not_measured_nothing_is_the_fastest(
    database: sa.Engine,
) -> None:
    assert rates.fastest(rates.of_model(database, 1), (), ALL) is None
    keep(database, INT8)
    assert rates.fastest(rates.of_model(database, 1), (), ALL) is None
    assert rates.fastest(rates.of_model(database, 1), (XEON,), ALL) == "int8"
    assert rates.fastest(rates.of_model(database, 1), (XEON, ORIN), ALL) is None
    assert rates.fastest(rates.of_model(database, 1), (XEON,), ("fp32",)) is None, (
        "it may not be used any more"
    )


def test_for_several_kinds_that_precision_is_the_fastest_in_which_they_score_most_together(
    database: sa.Engine,
) -> None:
    keep(database, Rate("bf16", 1100.0), Rate("int8", 800.0, (0.7, 0.6, 0.8)))
    keep(database, Rate("int8", 500.0), Rate("bf16", 300.0, (0.6, 0.5, 0.7)), kind=ORIN)
    assert (
        rates.fastest(rates.of_model(database, 1), (XEON, ORIN), ALL) == "bf16"
    )  # 1,400 against 1,300
    assert (
        rates.fastest(rates.of_model(database, 1), (XEON, ORIN, ORIN), ALL) == "int8"
    )  # 1,700 against 1,800
    assert rates.fastest(rates.of_model(database, 1), (XEON, ORIN), ("int8", "fp32")) == "int8"


def test_for_several_kinds_only_a_precision_that_all_have_counts_be_it_nobody_s_choice(
    database: sa.Engine,
) -> None:
    keep(database, Rate("bf16", 1100.0), Rate("fp32", 400.0, (0.4, 0.3, 0.5)))
    keep(database, Rate("fp16", 900.0), Rate("fp32", 300.0, (0.3, 0.2, 0.4)), kind=ORIN)
    assert rates.fastest(rates.of_model(database, 1), (XEON, ORIN), ALL) == "fp32"
    assert rates.lacking(rates.of_model(database, 1), (XEON,)) == {"int8", "fp16"}
    assert rates.lacking(rates.of_model(database, 1), (XEON, ORIN)) == {"int8", "fp16", "bf16"}
    assert rates.lacking(rates.of_model(database, 1), ("another",)) == set()
    assert rates.of_kind(database, 1, ORIN) == ["fp16", "fp32"]


def store(database: sa.Engine, precision: str, predictions: int) -> None:
    """Predictions of model 1 in this precision, one of which can be answered from the store."""
    with writing(database) as connection:
        connection.execute(
            sa.insert(films).values(
                model_id=1, precision=precision, content=precision.encode().ljust(16), job_id=1,
                item_no=0,
            )
        )  # fmt: skip
        values = {column.name: 0 for column in day_totals.c if not column.nullable}
        connection.execute(
            sa.insert(day_totals).values(
                values
                | {"day": "2026-01-31", "model_id": 1, "precision": precision}
                | {"predictions": predictions}
            )
        )


def test_the_stored_precision_is_that_of_most_predictions_that_can_be_answered(
    database: sa.Engine,
) -> None:
    assert rates.stored(database, 1) is None
    store(database, "fp32", 40)
    assert rates.stored(database, 1) == "fp32"
    store(database, "int8", 39)
    assert rates.stored(database, 1) == "fp32"
    store(database, "bf16", 41)
    assert rates.stored(database, 1) == "bf16"
    assert rates.stored(database, 2) is None


def test_a_model_that_is_given_another_precision_is_measured_anew(
    database: sa.Engine, tmp_path: Path
) -> None:
    keep(database, INT8)
    small = tmp_path / "small.onnx"
    small.write_bytes(b"in sixteen bits")
    write(database, lambda c: models.add_precisions(c, 1, {"fp16": small}, [], "kim"))
    assert rates.of_model(database, 1) == []
    assert rates.unmeasured(database, XEON) == [1]


def test_what_is_unmeasured_has_an_alias_and_no_rows_of_the_kind(
    database: sa.Engine, tmp_path: Path
) -> None:
    other = write(database, lambda c: models.register(c, given.model(tmp_path, "other"), "kim"))
    assert rates.unmeasured(database, XEON) == [1], "the first model is the champion"
    keep(database, INT8)
    assert rates.unmeasured(database, XEON) == []
    assert rates.unmeasured(database, ORIN) == [1]
    write(database, lambda c: aliases.move(c, "tried", other, "kim", "it is good"))
    assert rates.unmeasured(database, XEON) == [other]
