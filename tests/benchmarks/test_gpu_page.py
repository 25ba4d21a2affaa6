"""The page on a run, from results that are made up here."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from benchmarks.gpu import kmeans, probe
from benchmarks.gpu.findings import findings
from benchmarks.gpu.page import page
from benchmarks.suite import Shape

WHOLE = Shape("qwen3-8b", sequences=16, tokens=512, hidden=4096, vocab=151936).as_dict()
HALF = WHOLE | {"name": "qwen3-8b-half", "supervised": 0.5}


def results(**numbers: dict[str, Any]) -> dict[str, Any]:
    """Of a run whose parts have all passed; numbers of each part by the name of its file."""
    parts = [
        {
            "name": name,
            "what": "",
            "limit": 60,
            "file": f"{name}.txt",
            "status": "passed",
            "seconds": 12.3,
            "last": "ok",
        }
        | {"failures": []}
        for name in numbers
    ]
    machine = {"device": {"name": "NVIDIA H100 80GB HBM3"}, "commit": "abc", "versions": {"torch": "2.11.0"}}
    return {
        "date": "2026-12-01",
        "quick": False,
        "environment": machine,
        "parts": parts,
        "numbers": {name: {"a.json": value} for name, value in numbers.items()},
    }


def record(label: str, times_ms: list[float], over_floor: float | None = None, **fields: Any) -> dict[str, Any]:
    middle = None if over_floor is None else {"median": over_floor, "low": over_floor, "high": over_floor}
    time = {"median": float(np.median(times_ms))} if times_ms else None
    return {
        "suite": "linear_token_logps",
        "shape": WHOLE,
        "label": label,
        "library": "ours" if label.startswith("ours") else "torch",
        "mode": "frozen head",
        "status": "ok",
        "message": "",
        "errors": [1e-3],
        "extra_mib": 448.0,
        "times_ms": times_ms,
        "time_ms": time,
        "over_floor": middle,
    } | fields


def target(what: str, limit: float, measured: float, met: bool, **fields: Any) -> dict[str, Any]:
    unmet = {"shape": "qwen3-8b", "what": what, "limit": limit, "measured": measured, "met": met}
    return unmet | {"at_least": False, "unit": "×"} | fields


def healthy_probe(**changes: Any) -> dict[str, Any]:
    rates = {"z_bf16": 700.0, "z_fp32": 690.0, "ew_bf16": 710.0, "ew_fp32": 680.0, "ew_in_place": 675.0}
    return {
        "wide_output": {"bfloat16": True, "float16": True},
        "accumulation": {"addmm": 1.1e-7, "baddbmm": 1.2e-7},
        "copy_tb_s": 3.0,
        "square_tflops": 790.0,
        "products": [{"hidden": 4096, "rows": 2048, "width": 16896} | rates],
        "slice_kernel": [{"masses": masses, "warps": 8, "block": 2048, "gb_s": 2700.0} for masses in (False, True)],
        "operator": [{"mode": "frozen head", "ms": 31.4, "launches": 120, "wait": None}],
    } | changes


def row_of(text: str, *cells: str) -> str:
    """The line of a table that begins with these cells."""
    return next(line for line in text.splitlines() if line.startswith(f"| {' | '.join(cells)} |"))


def test_a_run_in_which_all_is_well_has_nothing_to_look_at() -> None:
    head = {"records": [record("ours", [3.0, 3.1], 1.1)], "targets": [target("time", 1.13, 1.1, True)]}
    found = results(probe=healthy_probe(), head=head)
    assert findings(found) == []
    text = page(found)
    assert text.startswith("# The first run on NVIDIA H100 80GB HBM3, 2026-12-01")
    assert "## What to look at\n\nNothing." in text
    assert row_of(text, "probe", "") == "| probe |  | passed | 12 | 60 | ok |"


def test_ratios_over_the_products_stand_beside_those_after_tuning() -> None:
    before = [record("ours", [30.0], 1.19), record("ours, recomputed", [58.0], 1.18, mode="trainable head")]
    text = page(results(head={"records": before}, tuned={"records": [record("ours", [28.0], 1.12)]}))
    assert row_of(text, "qwen3-8b", "frozen head", "ours").endswith("| 30 | 1.19 | 1.12 | 448 |")
    assert row_of(text, "qwen3-8b", "trainable head", "ours, recomputed").endswith("| 58 | 1.18 |  | 448 |")


def test_the_table_of_tuned_settings_is_kept_and_passed_over() -> None:
    found = results(tuned={"records": [record("ours", [28.0], 1.12)]})
    found["numbers"]["tuned"]["tiling.json"] = [{"device": "a card", "rows": 2048}]
    assert findings(found) == []


def test_peers_are_set_against_ours_round_by_round_of_their_own_run() -> None:
    head = {"records": [record("ours", [1.0, 10.0], 1.1), record("TRL chunked", [3.0, 30.0], 3.4)]}
    liger = {"records": [record("ours", [2.0], 1.1), record("Liger fused DPO", [9.0], 5.0)]}
    text = page(results(head=head, liger=liger))
    assert row_of(text, "qwen3-8b", "frozen head", "TRL chunked").endswith("| 16.5 | 3.00 | 448 |")
    assert row_of(text, "qwen3-8b", "frozen head", "Liger fused DPO").endswith("| 9 | 4.50 | 448 |")


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"wide_output": {"bfloat16": False, "float16": True}}, ["Wide output", "bfloat16"]),
        ({"accumulation": {"addmm": "self dtype must match"}}, ["addmm", "self dtype must match"]),
        ({"accumulation": {"addmm": 3e-3}}, ["addmm", "3e-03"]),
        (
            {"slice_kernel": [{"masses": True, "warps": w, "block": 1024, "gb_s": 100.0 * w} for w in (4, 16)]},
            ["slice_kernel with masses", "1,600 GB/s", "under 2,500", "3,000"],
        ),
        ({"operator": [{"mode": "frozen head", "ms": 1.0, "launches": 9, "wait": "called a sync"}]}, ["called a sync"]),
    ],
)
def test_what_the_model_assumes_wrongly_is_named(changes: dict[str, Any], words: list[str]) -> None:
    (sentence,) = findings(results(probe=healthy_probe(**changes)))
    assert all(word in sentence for word in words)


@pytest.mark.parametrize(
    ("slow", "rate", "told"),
    [("z_fp32", 640.0, True), ("z_fp32", 670.0, False), ("ew_in_place", 600.0, True), ("z_fp32", None, False)],
)
def test_rates_more_than_five_percent_apart_are_named(slow: str, rate: float | None, told: bool) -> None:
    products = [healthy_probe()["products"][0] | {slow: rate}]
    found = findings(results(probe=healthy_probe(products=products)))
    assert len(found) == told
    assert all("H = 4096" in sentence for sentence in found)


def test_targets_that_are_missed_are_named_with_what_was_wanted() -> None:
    missed = [
        target("frozen head: time", 1.13, 1.21, False),
        target("extra memory", 512, 600.4, False, unit=" MiB"),
        target("times faster than TRL chunked", 3.0, 2.5, False, at_least=True),
    ]
    assert findings(results(head={"records": [], "targets": missed})) == [
        "qwen3-8b, frozen head: time: 1.21×, wanted at most 1.13×.",
        "qwen3-8b, extra memory: 600 MiB, wanted at most 512 MiB.",
        "qwen3-8b, times faster than TRL chunked: 2.50×, wanted at least 3.00×.",
    ]


def test_an_error_of_ours_above_plain_pytorchs_is_named() -> None:
    naive = record("naive, all tokens", [9.0], 3.0, errors=[2.3e-3, 1e-3])
    worse, better = (record("ours", [3.0], 1.1, errors=errors) for errors in ([1e-4, 2.9e-3], [1e-4, 1.7e-3]))
    assert findings(results(head={"records": [naive, better]})) == []
    (sentence,) = findings(results(head={"records": [naive, worse]}))
    assert "2.9e-03" in sentence and "2.3e-03" in sentence


def test_what_did_not_run_is_named_once() -> None:
    absent = [
        record("TRL chunked", [], status="not available", message="ImportError: no trl", shape=shape, time_ms=None)
        for shape in (WHOLE, HALF)
    ]
    head = {"records": absent, "shapes_not_started": ["linear_token_logps: qwen2-1.5b"]}
    assert findings(results(head=head)) == [
        "TRL chunked: not available. ImportError: no trl",
        "No time was left for linear_token_logps: qwen2-1.5b.",
    ]


def test_parts_that_failed_come_first_with_the_tests_that_did() -> None:
    found = results(kernels={}, probe=healthy_probe(wide_output={"float16": False}))
    found["parts"][0] |= {"status": "timed out", "last": "....", "failures": ["FAILED tests/kernels/a.py::test_b"]}
    first, second, third = findings(found)
    assert first == "kernels timed out after 12 s; see kernels.txt. ...."
    assert second == "FAILED tests/kernels/a.py::test_b"
    assert "float16" in third


def test_a_quick_run_says_nothing_of_speed() -> None:
    missed = {"records": [], "targets": [target("time", 1.13, 9.0, False)]}
    found = results(probe=healthy_probe(wide_output={"bfloat16": False}), head=missed) | {"quick": True}
    assert findings(found) == []


def test_training_shows_rates_rounds_and_who_failed() -> None:
    ours = {
        "contender": "ours",
        "micro_pairs": 4,
        "status": "ok",
        "message": "",
        "tokens_per_s": {"median": 41234.5},
        "extra_mib": 30000.0,
        "seconds": [0.5, 0.5],
    }
    trl = ours | {"contender": "trl", "status": "failed", "message": "ImportError: no trl", "tokens_per_s": None}
    trl |= {"extra_mib": None, "seconds": []}
    found = results(training={"cases": [{"records": [ours, trl]}]})
    text = page(found)
    assert row_of(text, "ours", "4") == "| ours | 4 | 41234 | 30000 | 2 |"
    assert findings(found) == ["Training, trl: failed. ImportError: no trl"]


def test_kmeans_that_finds_other_clusters_is_named_and_one_that_is_absent_is_not() -> None:
    backends = [
        {"backend": "sklearn", "status": "ok", "seconds": 2.0, "inertia": 100.0},
        {"backend": "cuml", "status": "other clusters", "seconds": 0.1, "inertia_over_sklearn": 1.08},
        {"backend": "flash-kmeans", "status": "not available", "message": "needs a GPU"},
    ]
    found = results(kmeans={"backends": backends})
    assert findings(found) == ["K-means by cuml has 1.080 times the inertia of scikit-learn."]
    assert row_of(page(found), "cuml", "other clusters") == "| cuml | other clusters | 0.1 | 1.08 |"
    assert "| flash-kmeans | not available |" in page(found)


def test_inertia_is_the_squared_distance_to_the_nearest_centroid() -> None:
    points = np.array([[0, 0], [4, 0], [4, 3]], np.float32)
    assert kmeans.inertia(points, np.array([[0, 1], [4, 1]], np.float32)) == pytest.approx(1 + 1 + 4)


def test_a_backend_that_is_absent_passes_and_one_that_raises_does_not(monkeypatch: pytest.MonkeyPatch) -> None:
    points = kmeans.clustered(100, 4)
    monkeypatch.setattr(kmeans, "available_backends", lambda: ["sklearn", "flash-kmeans"])

    def broken(points: Any, count: int, *, backend: str, seed: int) -> Any:
        raise RuntimeError("no kernel\nfor this card")

    assert kmeans.measure("cuml", points, None)["status"] == "not available"
    monkeypatch.setattr(kmeans, "kmeans", broken)
    failed = kmeans.measure("flash-kmeans", points, None)
    assert (failed["status"], failed["message"]) == ("failed", "RuntimeError: no kernel")


def test_rates_of_products_that_a_device_lacks_are_none() -> None:
    def missing() -> None:
        raise NotImplementedError("out_dtype")

    measured = probe.Probe(torch.device("cpu"))
    assert measured.rate(1.0, missing) is None
    rate = measured.rate(1e12, lambda: None)
    assert rate is not None and rate > 0
