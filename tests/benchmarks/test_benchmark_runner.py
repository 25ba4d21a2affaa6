"""The runner of the benchmarks at a tiny shape. No time is asserted."""

from __future__ import annotations

import json
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from benchmarks.__main__ import main
from benchmarks.harness import Plan, Record, quartiles, ratio
from benchmarks.linear_token_logps.problem import FROZEN, TRAINABLE, HeadProblem, naive_logps
from benchmarks.linear_token_logps.shapes import TINY
from benchmarks.linear_token_logps.token_chunks import CHUNK, ChunkedLogProbs
from benchmarks.linear_token_logps.variants import SUITE
from benchmarks.operators import ALWAYS, chosen, measure_shape
from benchmarks.results import Target
from benchmarks.suite import Run, Variant
from benchmarks.targets import LIGER, NAIVE, TRL, head_targets, over_products

PLAN = Plan(torch.device("cpu"), ALWAYS, rounds=2)
OURS = SUITE.variant("ours [frozen head]")


def measure_only(variant: Variant) -> Record:
    (record,) = measure_shape(replace(SUITE, variants=(variant,)), TINY, PLAN)
    return record


def of_ours(change: Any) -> Variant:
    """Our frozen-head variant with its results changed."""
    right = OURS

    def prepare(problem: HeadProblem) -> Run:
        inner = right.prepare(problem)
        return lambda: change(inner())

    return replace(right, prepare=prepare)


def raising(error: Exception) -> Variant:
    def change(results: Any) -> Any:
        raise error

    return of_ours(change)


@pytest.mark.slow
def test_run_writes_json_with_every_variant_right_timed_and_measured(tmp_path: Path) -> None:
    options = ["--quick", "--device", "cpu", "--threads", "1", "--suites", "linear_token_logps", "--peers"]
    path = main([*options, "--out", str(tmp_path), "--commit", "abc"])
    result = json.loads(path.read_text())
    assert result["environment"]["commit"] == "abc"
    assert result["environment"]["versions"]["torch"] == torch.__version__
    expected = [v.key for v in SUITE.variants if v.library in ("ours", "torch", "floor")]
    records = result["records"]
    assert [f"{r['label']} [{r['mode']}]" for r in records] == expected
    for record in records:
        assert record["status"] == "ok", record
        assert len(record["times_ms"]) == 2 and min(record["times_ms"]) > 0
        assert record["library"] == "floor" or max(record["errors"]) < 1e-5
        assert record["extra_mib"] >= 0
    assert path.with_name(f"{path.stem}-time.png").stat().st_size > 10_000


@pytest.mark.slow
def test_a_run_without_the_head_has_nothing_to_draw(tmp_path: Path) -> None:
    options = ["--quick", "--device", "cpu", "--threads", "1", "--suites", "token_logps", "--peers"]
    path = main([*options, "--without-memory", "--out", str(tmp_path), "--commit", "abc"])
    assert path is not None
    assert {record["status"] for record in json.loads(path.read_text())["records"]} == {"ok"}
    assert not list(tmp_path.glob("*.png"))


def test_wrong_results_are_reported_and_not_timed() -> None:
    record = measure_only(of_ours(lambda results: (results[0], 1.01 * results[1])))
    assert record.status == "wrong"
    assert record.errors[1] == pytest.approx(0.01, rel=1e-2)
    assert not record.times and record.extra_mib is None


def test_results_that_are_not_finite_are_wrong() -> None:
    assert measure_only(of_ours(lambda results: (results[0] * torch.nan, results[1]))).status == "wrong"


@pytest.mark.parametrize(
    ("error", "status"),
    [
        (ImportError("no such library"), "not available"),
        (torch.OutOfMemoryError("too large"), "out of memory"),
        (RuntimeError("does not work\nhere"), "failed"),
    ],
)
def test_failures_are_recorded_with_their_message(error: Exception, status: str) -> None:
    record = measure_only(raising(error))
    assert (record.status, record.times) == (status, [])
    assert record.message == f"{type(error).__name__}: {str(error).splitlines()[0]}"


def test_chosen_variants_come_with_the_floors_of_their_modes_alone() -> None:
    plan = replace(PLAN, labels=("naive, all tokens", "ours [frozen head]"))
    found = {variant.key for variant in chosen(SUITE, plan)}
    modes = ("no gradient", "frozen head", "trainable head")
    floors = {f"floor [{mode}]" for mode in modes} | {"floor with recomputation [trainable head]"}
    assert found == floors | {"ours [frozen head]"} | {f"{NAIVE} [{mode}]" for mode in modes}
    assert {v.mode for v in chosen(SUITE, replace(PLAN, labels=("ours [frozen head]",)))} == {FROZEN}


def test_memory_is_not_measured_where_nobody_asks() -> None:
    suite = replace(SUITE, variants=(OURS,))
    (record,) = measure_shape(suite, TINY, replace(PLAN, measures_memory=False))
    assert (record.status, record.extra_mib, len(record.times)) == ("ok", None, 2)


@pytest.mark.parametrize("tokens", [5, CHUNK, 2 * CHUNK + 7])
def test_chunks_of_tokens_give_the_log_probs_and_gradients_of_whole_logits(tokens: int) -> None:
    torch.manual_seed(0)
    hidden = torch.randn(tokens, 8, dtype=torch.float64, requires_grad=True)
    weight = torch.randn(30, 8, dtype=torch.float64, requires_grad=True)
    labels = torch.randint(30, (tokens,)).masked_fill_(torch.rand(tokens) < 0.3, -100)
    upstream = torch.randn(tokens)
    found = ChunkedLogProbs.apply(hidden, weight, labels)
    expected = naive_logps(hidden, weight, labels, None)
    torch.testing.assert_close(found, expected, check_dtype=False, rtol=1e-5, atol=1e-5)
    gradients = (torch.autograd.grad(logps, (hidden, weight), upstream.to(logps)) for logps in (found, expected))
    for mine, plain in zip(*gradients, strict=True):
        torch.testing.assert_close(mine, plain, rtol=1e-4, atol=1e-4)


def timed(label: str, times: list[float], extra_mib: float, mode: str = FROZEN) -> Record:
    return Record(label, "", mode, {"floor": "floor"}, times=times, extra_mib=extra_mib)


def targets_of(records: list[Record], device_type: str, **sizes: Any) -> list[Target]:
    return head_targets(replace(TINY, name="cpu", **sizes), {record.key: record for record in records}, device_type)


def test_ratios_are_taken_round_by_round() -> None:
    slow_machine = [1.0, 2.0, 10.0, 4.0]
    assert ratio(timed("a", [2 * t for t in slow_machine], 0), timed("b", slow_machine, 0)) == quartiles([2.0] * 4)


def test_targets_compare_time_and_memory_with_naive() -> None:
    records = [timed("ours", [1.0, 3.0], 9.0), timed(NAIVE, [4.0, 6.0], 100.0)]
    time, memory = targets_of(records, "cpu")
    assert (time.measured, time.limit, time.met) == (0.375, 0.40, True)
    assert (memory.measured, memory.limit, memory.met) == (0.09, 0.10, True)


def test_products_of_wide_heads_leave_less_room() -> None:
    assert [over_products(hidden) for hidden in (4096, 1536)] == [1.13, 1.35]


def test_floors_count_where_all_tokens_are_supervised_and_peers_where_half_are() -> None:
    whole = {"supervised": 1.0, "hidden": 4096, "vocab": 151936}
    records = [timed("ours", [2.2], 448.0), timed("floor", [2.0], 0), timed(TRL, [9.0], 0)]
    time, memory = targets_of(records, "cuda", **whole)
    assert (time.limit, time.measured, time.met) == (1.13, 1.1, True)
    assert (memory.limit, memory.measured, memory.met) == (512.0, 448.0, True)

    records = [timed(label, [ms], 600.0, mode=TRAINABLE) for label, ms in (("ours", 2.0), (TRL, 5.0), (LIGER, 8.0))]
    over_trl, over_liger = targets_of(records, "cuda")
    assert (over_trl.measured, over_trl.met, over_liger.measured, over_liger.met) == (2.5, False, 4.0, True)


def test_targets_are_met_from_the_right_side() -> None:
    assert Target("s", "speed-up", 3.0, 3.1, at_least=True).met
    assert not Target("s", "speed-up", 3.0, 2.9, at_least=True).met
    assert not Target("s", "time", 0.4, 0.41).met
