"""The model of the head's cost: against an older table of the same arithmetic, and of the operator's own tiles."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from benchmarks.linear_token_logps import model
from benchmarks.linear_token_logps.costs import Case, costs
from benchmarks.linear_token_logps.gpus import GPUS, Gpu
from benchmarks.linear_token_logps.ledger import EXPONENTIALS, HEAD, RESULTS, SUMS, WAVES, Ledger
from benchmarks.linear_token_logps.variants import SUITE
from benchmarks.operators import record_of, summary
from benchmarks.suite import Shape
from iwpo_kernels.linear_token_logps.tiling import Tiling

ROWS, VOCAB = 8192, 151_936
H100 = GPUS["H100"]

# What the operator was before sums grew inside the products, by an independent model of the same assumptions:
# tiles of the forward pass and of the head's gradient, and time over the bare products.
OLD_TILES = {
    4096: (Tiling(2048, 13_824), Tiling(ROWS, 3072)),
    1536: (Tiling(2048, 15_232), Tiling(ROWS, 4352)),
    896: (Tiling(2048, 15_232), Tiling(ROWS, 4608)),
}
MODES = ("no gradient", "frozen", "saved", "recomputed")
OLD_TABLE = {
    4096: (1.19, 1.20, 1.18, 1.19),
    1536: (1.40, 1.37, 1.34, 1.40),
    896: (1.65, 1.67, 1.51, 1.61),
}
OLD_TABLE_H200 = {4096: (1.15, 1.16, 1.15, 1.15), 1536: (1.31, 1.29, 1.27, 1.32), 896: (1.50, 1.54, 1.41, 1.48)}


def old_operator(features: int, mode: str, gpu: Gpu) -> Ledger:
    """A pass that adds each slice's part to the sums, and one over a float32 copy of the head's gradient."""
    ledger, (forward, gradient) = Ledger(gpu), OLD_TILES[features]
    for start, end in forward.row_ranges(ROWS):
        rows = end - start
        for first, last in forward.slices(VOCAB):
            width = last - first
            ledger.product(rows, width, features)
            ledger.pass_of_slice(EXPONENTIALS, rows * width * (4 if mode == "no gradient" else 6))
            if mode != "no gradient":
                ledger.product(rows, features, width)
                ledger.pass_of_slice(SUMS, 12 * rows * features if first else 0)
    if mode != "no gradient":
        ledger.passes(RESULTS, 20 * ROWS * features)
    if mode in ("saved", "recomputed"):
        for first, last in gradient.slices(VOCAB):
            width = last - first
            if mode == "recomputed":
                ledger.product(ROWS, width, features)
                ledger.pass_of_slice(HEAD, 6 * ROWS * width)
            ledger.product(width, features, ROWS)
            ledger.pass_of_slice(HEAD, 6 * width * features)
    return ledger


@pytest.mark.parametrize(("gpu", "table"), [("H100", OLD_TABLE), ("H200", OLD_TABLE_H200)])
@pytest.mark.parametrize(
    ("features", "within"),
    [
        (4096, 0.01),
        (1536, 0.055),  # all of it whole waves, as small tiles are not as fast here; most in the head's gradient
        (896, 0.035),
    ],
)
def test_the_older_operator_costs_what_an_independent_table_says(
    gpu: str, table: dict[int, tuple[float, ...]], features: int, within: float
) -> None:
    for mode, expected in zip(MODES, table[features], strict=True):
        assert old_operator(features, mode, GPUS[gpu]).over_floor == pytest.approx(expected, abs=within), mode


def test_whole_waves_of_the_older_operator_are_those_of_the_independent_table() -> None:
    for mode, percent in zip(MODES, (5.3, 4.2, 3.9, 3.7), strict=True):
        ledger = old_operator(4096, mode, H100)
        assert 100 * ledger.seconds[WAVES] / ledger.bare == pytest.approx(percent, abs=0.15)


@pytest.mark.parametrize(
    ("features", "mode", "at_85", "at_95", "within"),
    [
        (4096, "no gradient", 1.21, 1.08, 0.01),
        (1536, "no gradient", 1.26, 1.14, 0.01),
        (896, "no gradient", 1.32, 1.20, 0.01),
        (4096, "frozen", 1.15, 1.09, 0.02),
        (1536, "frozen", 1.21, 1.15, 0.03),
        (896, "frozen", 1.37, 1.31, 0.07),  # that table has narrower slices
    ],
)
def test_exponentials_in_the_epilogue_cost_what_the_independent_table_says(
    features: int, mode: str, at_85: float, at_95: float, within: float
) -> None:
    for rate, expected in ((0.85, at_85), (0.95, at_95)):
        found = costs(case(features, mode), H100, main_loop=rate).over_floor
        assert found == pytest.approx(expected, abs=within)


def case(features: int, mode: str) -> Case:
    return next(c for c in model.CASES if (c.tokens, c.features, c.mode) == (ROWS, features, mode))


def test_the_operator_costs_little_more_than_its_products_at_4096() -> None:
    """To two decimals, in the terms of the independent table: launches that do not go by slices left out."""
    for mode, limit in zip(MODES, (1.13, 1.13, 1.10, 1.13), strict=True):
        assert round(costs(case(4096, mode), H100).over_floor, 2) <= limit, mode


def test_no_row_is_worse_than_its_record() -> None:
    """Where tiles are chosen better, `python -m benchmarks.linear_token_logps.model --record`."""
    record = json.loads(model.RECORD.read_text())
    for gpu, rows in model.recorded().items():
        assert rows.keys() == record[gpu].keys()
        for name, over_floor in rows.items():
            assert over_floor <= 1.02 * record[gpu][name], f"{gpu}, {name}"


def test_a_product_pays_whole_waves() -> None:
    full = H100.product(128 * 132, 256, 4096)
    assert full == pytest.approx(H100.bare(128 * 132, 256, 4096))
    assert H100.product(128 * 133, 256, 4096) > 1.1 * full


def test_what_was_measured_stands_beside_the_model(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    shape = Shape("s", 16, 512, hidden=4096, vocab=VOCAB, supervised=0.5)
    record = summary(record_of(SUITE, shape, SUITE.variant("ours [frozen head]")), {})
    ours = record | {"over_floor": {"median": 1.17}}
    records = [ours, ours | {"label": "naive, all tokens"}, ours | {"over_floor": None}]
    path = tmp_path / "results.json"
    path.write_text(json.dumps({"environment": {"device": {"name": "none such"}}, "records": records}))
    model.main(["--device", "H200", "--measured", str(path)])
    rows = capsys.readouterr().out.splitlines()
    assert sum(row.endswith("| 1.17 |") for row in rows) == 1
    assert rows[-1].startswith("| 4,096 | 4,096 | 151,936 | frozen |")
    assert len(rows) == 4 + len(model.CASES) + 1
