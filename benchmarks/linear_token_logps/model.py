"""What the operator should cost over its bare products, on paper.

    python -m benchmarks.linear_token_logps.model                          # H100
    python -m benchmarks.linear_token_logps.model --device H200 --measured results.json
    python -m benchmarks.linear_token_logps.model --main-loop 0.85         # exponentials in the product's epilogue
    python -m benchmarks.linear_token_logps.model --record                 # what a test holds later tilings against

A table of arithmetic, from the tiles that the operator chooses: whole waves of the products' tiles, passes over memory
that nothing hides, and a gap before each kernel. What GPUs can do is in `gpus`, what each kernel moves in `costs`.
Beside it stands what `python -m benchmarks` measured, if its results are given.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterable, Iterator
from functools import partial
from pathlib import Path
from typing import get_args

from benchmarks.linear_token_logps.costs import WORKSPACE_MB, Case, costs
from benchmarks.linear_token_logps.gpus import GPUS, Gpu
from benchmarks.linear_token_logps.ledger import COLUMNS, Ledger
from benchmarks.linear_token_logps.problem import FROZEN, NO_GRADIENT, TRAINABLE
from benchmarks.suite import Shape
from iwpo_kernels.linear_token_logps.tuned import DEFAULTS, Mode, table

RECORD = Path(__file__).with_name("model.json")
RECORDED = ("H100", "H200")
VOCAB = 151_936
# All of 8,192 tokens in order, and half of them, which stand between prompts.
CASES = tuple(
    Case(tokens, features, VOCAB, mode, gathered=tokens == 4096)
    for tokens in (8192, 4096)
    for features in (4096, 1536, 896)
    for mode in get_args(Mode)
)
# How the benchmark names what the operator calls a mode.
MODES: dict[tuple[str, str], Mode] = {
    (NO_GRADIENT, "ours"): "no gradient",
    (FROZEN, "ours"): "frozen",
    (TRAINABLE, "ours"): "saved",
    (TRAINABLE, "ours, recomputed"): "recomputed",
}


Row = tuple[Case, Ledger, float | None]  # and the measured time over the bare products, round by round, its median


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description="Cost of linear_token_logps over its bare products, on paper.")
    parser.add_argument("--device", choices=GPUS, default="H100")
    parser.add_argument("--workspace-mb", type=int, default=WORKSPACE_MB)
    parser.add_argument("--measured", type=Path, help="JSON of python -m benchmarks")
    parser.add_argument("--main-loop", type=float, help="rate, over cuBLAS's, of a product that makes exponentials")
    parser.add_argument("--record", action="store_true", help=f"write {RECORD.name}, and stop")
    options = parser.parse_args(argv)
    if options.record:
        RECORD.write_text(json.dumps(recorded(), indent=1) + "\n")
        return
    gpu = GPUS[options.device]
    ledger = partial(costs, gpu=gpu, workspace_mb=options.workspace_mb, main_loop=options.main_loop)
    rows: list[Row] = [(case, ledger(case), None) for case in CASES]
    if options.measured is not None:
        result = json.loads(options.measured.read_text())
        name = result["environment"]["device"]["name"]
        for case, over_floor in measured(result):
            settings = table(None).get((name, case.features, case.mode), DEFAULTS)
            rows.append((case, ledger(case, settings=settings), over_floor))
    print("\n".join(markdown(gpu, rows)))


def recorded() -> dict[str, dict[str, float]]:
    """Time over the bare products with all launches, of each case on each GPU of the record."""
    return {
        name: {row_name(case): round(costs(case, GPUS[name]).over_floor_with_all_launches, 4) for case in CASES}
        for name in RECORDED
    }


def row_name(case: Case) -> str:
    return f"N={case.tokens} H={case.features} {case.mode}"


def measured(result: dict) -> Iterator[tuple[Case, float]]:
    """Cases of the operator among the records of `python -m benchmarks`, with their time over the bare products."""
    for record in result["records"]:
        mode = MODES.get((record["mode"], record["label"]))
        if record["suite"] == "linear_token_logps" and mode is not None and record["over_floor"]:
            shape = Shape.from_dict(record["shape"])
            case = Case(shape.supervised_tokens, shape.hidden, shape.vocab, mode, gathered=True)
            yield case, record["over_floor"]["median"]


def markdown(gpu: Gpu, rows: Iterable[Row]) -> Iterator[str]:
    """Columns in percent of the bare products, except milliseconds, GB, launches and ratios."""
    heads = ["N", "H", "V", "mode", "tiles", "products, ms", *COLUMNS, "gaps", "**over floor**"]
    heads += ["with all launches", "GB beside products", "launches", "measured"]
    yield f"{gpu.name}: {gpu.products / 1e12:.0f} TFLOP/s, {gpu.memory / 1e12:.1f} TB/s; % of the bare products"
    yield ""
    yield f"| {' | '.join(heads)} |"
    yield f"|{'--:|' * 3}---|---|{'--:|' * (len(heads) - 5)}"
    for case, ledger, over_floor in rows:
        percents = [100 * seconds / ledger.bare for seconds in (*ledger.seconds.values(), ledger.gaps)]
        cells = [
            *(f"{size:,}" for size in (case.tokens, case.features, case.vocab)),
            case.mode,
            ", ".join(ledger.tiles),
            f"{1e3 * ledger.bare:.1f}",
            *(f"{percent:.1f}" if percent else "–" for percent in percents),
            f"**{ledger.over_floor:.2f}**",
            f"{ledger.over_floor_with_all_launches:.2f}",
            f"{ledger.bytes / 1e9:.1f}",
            f"{ledger.sliced + ledger.others}",
            "" if over_floor is None else f"{over_floor:.2f}",
        ]
        yield f"| {' | '.join(cells)} |"


if __name__ == "__main__":
    main()
