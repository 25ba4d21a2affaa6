"""What the numbers of a run hold, and what somebody should look at after it: each rule yields sentences."""

from __future__ import annotations

from collections.abc import Iterator
from statistics import median
from typing import Any

from benchmarks.results import Target

Results = dict[str, Any]
Record = dict[str, Any]

HEAD_PARTS = ("head", "liger")
HEAD_SUITE, OURS = "linear_token_logps", "ours"
WITH_TARGETS = {"": HEAD_PARTS, "Tuned": ("tuned",), "Training": ("training",)}

APART = 0.05  # of two rates that should be one
ROUNDING = 1e-6  # relative error of an accumulation in float32
SLICE_GB_S = 2500
NAIVE = "naive, all tokens"
CLOSE_INERTIA = 0.01


def findings(results: Results) -> list[str]:
    """In a quick run only what fails: its sizes say nothing on speed."""
    speed = (_wide_output, _accumulation, _rates, _row_kernel, _waits, _errors, _targets)
    rules = (_parts, *(() if results["quick"] else speed), _variants, _training, _kmeans)
    return [sentence for rule in rules for sentence in rule(results)]


def _parts(results: Results) -> Iterator[str]:
    for part in results["parts"]:
        if part["status"] != "passed":
            yield f"{part['name']} {part['status']} after {part['seconds']:.0f} s; see {part['file']}. {part['last']}"
            yield from part["failures"]


def _wide_output(results: Results) -> Iterator[str]:
    for dtype, has in probe(results).get("wide_output", {}).items():
        if not has:
            yield f"Wide output is missing for {dtype}: products fall back to float32, some 13 times slower."


def _accumulation(results: Results) -> Iterator[str]:
    for call, error in probe(results).get("accumulation", {}).items():
        if not isinstance(error, float):
            yield f"{call} does not accumulate in place: {error}"
        elif error > ROUNDING:
            yield f"{call} in place is off by {error:.0e}, where float32 sums are off by 1e-7."


def _rates(results: Results) -> Iterator[str]:
    pairs = (
        ("z_fp32", "z_bf16", "Logits as float32 (Z fp32)", "exponentials inside the product pay earlier"),
        ("ew_in_place", "ew_fp32", "Accumulation in place (EW in place)", "it may not be worth it there"),
    )
    rows = probe(results).get("products", [])
    for slow, fast, what, then in pairs:
        for hidden in dict.fromkeys(row["hidden"] for row in rows):
            both = [(r[slow], r[fast]) for r in rows if r["hidden"] == hidden and r[slow] and r[fast]]
            ratio = median(a / b for a, b in both) if both else 1.0
            if ratio < 1 - APART:
                yield f"{what} runs at {ratio:.0%} of the rate of {fast} at H = {hidden}: {then}."


def _row_kernel(results: Results) -> Iterator[str]:
    rows = probe(results).get("slice_kernel", [])
    for masses in dict.fromkeys(row["masses"] for row in rows):
        best = max(row["gb_s"] for row in rows if row["masses"] == masses)
        if best < SLICE_GB_S:
            name = "with" if masses else "without"
            copy = probe(results).get("copy_tb_s")
            beside = f"; a copy moves {1000 * copy:,.0f}" if copy else ""
            yield f"slice_kernel {name} masses moves {best:,.0f} GB/s, under {SLICE_GB_S:,}{beside}."


def _waits(results: Results) -> Iterator[str]:
    for row in probe(results).get("operator", []):
        if row["wait"]:
            yield f"The operator makes the host wait ({row['mode']}): {row['wait']}"


def _errors(results: Results) -> Iterator[str]:
    """Ours should be more exact than plain PyTorch in the same type, of 16 bits."""
    head = [r for r in head_records(results, *HEAD_PARTS, "tuned") if r["shape"]["dtype"] != "float32"]
    naive = {place(r): max(r["errors"]) for r in head if r["label"] == NAIVE and r["errors"]}
    for record in head:
        if record["library"] == OURS and record["errors"]:
            shape, mode = place(record)
            error, plain = max(record["errors"]), naive.get((shape, mode))
            if plain is not None and error > plain > 0:
                yield f"{record['label']} is off by {error:.1e} at {shape}, {mode}, plain PyTorch by {plain:.1e}."


def _variants(results: Results) -> Iterator[str]:
    """What did not run, each reason once."""
    told = set()
    for record in records(results, *HEAD_PARTS, "tuned"):
        if record["status"] != "ok":
            sentence = f"{record['label']}: {record['status']}. {record['message']}"
            if sentence not in told:
                told.add(sentence)
                yield sentence
    for file in files(results, *HEAD_PARTS, "tuned"):
        for shape in file.get("shapes_not_started", []):
            yield f"No time was left for {shape}."


def _targets(results: Results) -> Iterator[str]:
    for kind, measured in targets(results).items():
        for target in measured:
            if not target.met:
                relation = "at least" if target.at_least else "at most"
                tuned = ", tuned" if kind == "Tuned" else ""
                numbers = f"{target.shown(target.measured)}, wanted {relation} {target.shown(target.limit)}"
                yield f"{target.shape}, {target.what}{tuned}: {numbers}."


def _training(results: Results) -> Iterator[str]:
    for record in training_records(results):
        if record["status"] != "ok" or record["message"]:
            yield f"Training, {record['contender']}: {record['status']}. {record['message']}"


def _kmeans(results: Results) -> Iterator[str]:
    for row in kmeans_rows(results):
        ratio = row.get("inertia_over_sklearn")
        if ratio is not None and abs(ratio - 1) > CLOSE_INERTIA:
            yield f"K-means by {row['backend']} has {ratio:.3f} times the inertia of scikit-learn."
        if row.get("message") and row["status"] != "not available":
            yield f"K-means by {row['backend']}: {row['status']}. {row['message']}"


def files(results: Results, *parts: str) -> Iterator[dict[str, Any]]:
    """The JSON objects of these parts, in order; the table of tuned settings is a list."""
    for part in parts:
        yield from (file for file in results["numbers"].get(part, {}).values() if isinstance(file, dict))


def records(results: Results, *parts: str) -> list[Record]:
    """Measured variants of the benchmarks that these parts ran."""
    return [record for file in files(results, *parts) for record in file.get("records", [])]


def head_records(results: Results, *parts: str) -> list[Record]:
    return [record for record in records(results, *parts) if record["suite"] == HEAD_SUITE]


def targets(results: Results) -> dict[str, list[Target]]:
    """By kind, each once, though several parts may have measured it."""
    by_kind: dict[str, list[Target]] = {}
    for kind, parts in WITH_TARGETS.items():
        rows = [row for file in files(results, *parts) for row in file.get("targets", [])]
        first = {(row["shape"], row["what"]): row for row in reversed(rows)}.values()
        by_kind[kind] = [Target(**{name: row[name] for name in row if name != "met"}) for row in first][::-1]
    return by_kind


def place(record: Record) -> tuple[str, str]:
    """Where a variant stands: shape and mode."""
    return record["shape"]["name"], record["mode"]


def times_ours(record: Record, others: list[Record]) -> float | None:
    """Median of a variant's time over ours, round by round, in the run that timed both."""
    for ours in others:
        same = place(ours) == place(record) and len(ours["times_ms"]) == len(record["times_ms"])
        if same and ours["label"] == OURS and ours["times_ms"]:
            return median([a / b for a, b in zip(record["times_ms"], ours["times_ms"], strict=True)])
    return None


def probe(results: Results) -> dict[str, Any]:
    return next(files(results, "probe"), {})


def training_records(results: Results) -> list[Record]:
    cases = [case for file in files(results, "training") for case in file.get("cases", [])]
    return [record for case in cases for record in case["records"]]


def kmeans_rows(results: Results) -> list[Record]:
    return [row for file in files(results, "kmeans") for row in file.get("backends", [])]
