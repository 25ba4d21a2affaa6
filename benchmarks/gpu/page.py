"""A page in Markdown on what a run found."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import Any

from benchmarks.gpu import findings
from benchmarks.results import target_table

Results = findings.Results
PASSED, FAILED, OVER_LIMIT = "passed", "failed", "timed out"
LAST = 100  # characters of a part's last line


def page(results: Results) -> str:
    device = results["environment"]["device"]["name"]
    commit = results["environment"].get("commit") or "unknown"
    versions = results["environment"].get("versions", {})
    kind = "The quick run" if results["quick"] else "The first run"
    sections = [
        f"# {kind} on {device}, {results['date']}",
        f"Commit {commit}; " + ", ".join(f"{name} {version}" for name, version in versions.items()) + ".",
        *_section("Parts", _table(("part", "what", "result", "seconds", "limit", "last line"), _parts(results))),
        *_section("What to look at", [f"- {finding}" for finding in findings.findings(results)] or ["Nothing."]),
        *_section("Our head over the bare products", _over_floor(results)),
        *_section("Others over our time", _peers(results)),
        *_section("Targets", _targets(results)),
        *_section("What the model assumes", _probe(results)),
        *_section("Logits to log-probs", _logits(results)),
        *_section("Training steps", _training(results)),
        *_section("K-means", _kmeans(results)),
    ]
    return "\n\n".join(sections) + "\n"


def _section(title: str, lines: Iterable[str]) -> list[str]:
    """Nothing where there is nothing to say."""
    text = "\n".join(lines)
    return [f"## {title}", text] if text else []


def _table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> list[str]:
    body = [f"| {' | '.join(row)} |" for row in rows]
    return [f"| {' | '.join(head)} |", "|" + "---|" * len(head), *body] if body else []


def _parts(results: Results) -> Iterator[Sequence[str]]:
    for part in results["parts"]:
        result = part["status"] if part["status"] == PASSED else f"**{part['status']}**"
        last = part["last"][:LAST].replace("|", "\\|")
        yield part["name"], part["what"], result, f"{part['seconds']:.0f}", str(part["limit"]), last


def _over_floor(results: Results) -> list[str]:
    tuned = {(*findings.place(r), r["label"]): r["over_floor"] for r in findings.head_records(results, "tuned")}
    rows = []
    for record in findings.head_records(results, "head"):
        if record["library"] == findings.OURS and record["over_floor"]:
            shape, mode = findings.place(record)
            then = tuned.get((shape, mode, record["label"]))
            time, ratio = record["time_ms"]["median"], record["over_floor"]["median"]
            numbers = (f"{time:.4g}", f"{ratio:.2f}", f"{then['median']:.2f}" if then else "", _mib(record))
            rows.append((shape, mode, record["label"], *numbers))
    return _table(("shape", "mode", "variant", "ms", "over products", "tuned", "extra MiB"), rows)


def _peers(results: Results) -> list[str]:
    rows = []
    for part in findings.HEAD_PARTS:
        for file in findings.files(results, part):
            head = [record for record in file.get("records", []) if record["suite"] == "linear_token_logps"]
            for record in head:
                ratio = None if record["library"] in (findings.OURS, "floor") else findings.times_ours(record, head)
                if ratio is not None:
                    time = f"{record['time_ms']['median']:.4g}"
                    rows.append((*findings.place(record), record["label"], time, f"{ratio:.2f}", _mib(record)))
    return _table(("shape", "mode", "variant", "ms", "times ours", "extra MiB"), rows)


def _mib(record: dict[str, Any]) -> str:
    return "" if record["extra_mib"] is None else f"{record['extra_mib']:.0f}"


def _targets(results: Results) -> list[str]:
    lines = []
    for kind, measured in findings.targets(results).items():
        if measured:
            lines += [*([f"{kind}:", ""] if kind else []), target_table(measured), ""]
    return lines[:-1]


def _probe(results: Results) -> list[str]:
    numbers = findings.probe(results)
    shown = {
        "copy_tb_s": "- Copy: {:.2f} TB/s, read and written.",
        "square_tflops": "- Square product: {:.0f} TFLOP/s.",
    }
    lines = [line.format(numbers[name]) for name, line in shown.items() if name in numbers]
    operator = "- Operator, {mode}: {ms:.3g} ms, {launches} launches."
    return lines + [operator.format(**row) for row in numbers.get("operator", [])]


def _logits(results: Results) -> list[str]:
    rows = [
        (*findings.place(r), r["label"], f"{r['time_ms']['median']:.4g}", f"{r['over_floor']['median']:.2f}")
        for r in findings.records(results, "head")
        if r["suite"] == "token_logps" and r["over_floor"]
    ]
    return _table(("shape", "mode", "variant", "ms", "over traffic"), rows)


def _training(results: Results) -> list[str]:
    rows = []
    for record in findings.training_records(results):
        rate = record["tokens_per_s"]
        speed = f"{rate['median']:.0f}" if rate else ""
        rows.append((record["contender"], str(record["micro_pairs"]), speed, _mib(record), str(len(record["seconds"]))))
    return _table(("trainer", "pairs at once", "tokens/s", "extra MiB", "rounds"), rows)


def _kmeans(results: Results) -> list[str]:
    rows = []
    for row in findings.kmeans_rows(results):
        seconds, ratio = row.get("seconds"), row.get("inertia_over_sklearn")
        numbers = ("" if value is None else f"{value:.4g}" for value in (seconds, ratio))
        rows.append((row["backend"], row["status"], *numbers))
    return _table(("backend", "result", "seconds", "inertia over scikit-learn's"), rows)
