"""The fastest settings of the operator at one shape, mode by mode: as Markdown, and as the table of `iwpo_kernels`."""

from __future__ import annotations

import contextlib
import json
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, get_args

import torch
from torch import Tensor

from benchmarks.harness import quartiles
from benchmarks.linear_token_logps.candidates import BUDGETS_MB, Candidate, candidates
from benchmarks.linear_token_logps.costs import WORKSPACE_MB, Case
from benchmarks.linear_token_logps.problem import FROZEN, NO_GRADIENT, TRAINABLE, HeadProblem, build
from benchmarks.linear_token_logps.race import Standing, race
from benchmarks.suite import TOLERANCE, Run, Shape, relative_errors
from iwpo_fast.files import written_aside
from iwpo_kernels.linear_token_logps import linear_token_logps
from iwpo_kernels.linear_token_logps.epilogue import architecture, pays
from iwpo_kernels.linear_token_logps.tiling import processors
from iwpo_kernels.linear_token_logps.tuned import DEFAULTS, Mode, Tuned, device_name, table, using

Key = tuple[str, int, str]  # device name, hidden size, mode
Entries = dict[Key, Tuned]

# How problems name a mode, and whether exponentials are saved.
RUNS: dict[Mode, tuple[str, bool]] = {
    "no gradient": (NO_GRADIENT, False),
    "frozen": (FROZEN, False),
    "saved": (TRAINABLE, True),
    "recomputed": (TRAINABLE, False),
}


@dataclass(frozen=True)
class ModeResult:
    """What became of the candidates of one mode at one shape.

    Attributes:
        standings: of the candidates that were tried, by name; the default is the first of them.
        untried: candidates for which no time was left.
    """

    case: Case
    candidates: dict[str, Candidate]
    standings: dict[str, Standing]
    untried: int

    @property
    def default(self) -> str:
        return next(iter(self.candidates))

    @property
    def best(self) -> str | None:
        """The fastest that fits, if it is faster than the default."""
        return self._fastest([key for key in self.standings if self.candidates[key].fits])

    @property
    def best_with_more_memory(self) -> str | None:
        return self._fastest([key for key in self.standings if not self.candidates[key].fits])

    def _fastest(self, keys: Sequence[str]) -> str | None:
        faster = [key for key in keys if self.standings[key].is_faster]
        return min(faster, key=lambda key: self.standings[key].over_default, default=None)


def tune_shape(
    shape: Shape, device: torch.device, entries: Entries, deadline: float, most: int | None = None
) -> list[ModeResult]:
    """Mode by mode; `entries` get what is found, and lose what was timed again and is no longer faster.

    "recomputed" comes after "frozen", whose forward pass it shares.
    """
    problem = build(shape, device, 0)
    modes = get_args(Mode)
    results = []
    for i, mode in enumerate(modes):
        share = time.monotonic() + (deadline - time.monotonic()) / (len(modes) - i)
        key = (device_name(device), shape.hidden, mode)
        results.append(tune_mode(problem, mode, entries, key, share, most))
        best = results[-1].best
        if best is not None:
            entries[key] = results[-1].candidates[best].settings
        elif any(results[-1].candidates[name].settings == entries.get(key) for name in results[-1].standings):
            del entries[key]
    return results


def tune_mode(
    problem: HeadProblem, mode: Mode, entries: Entries, key: Key, deadline: float, most: int | None
) -> ModeResult:
    shape, device = problem.shape, problem.hidden.device
    tokens = problem.supervised.shape[0]
    case = Case(tokens, shape.hidden, shape.vocab, mode, gathered=True, element_size=shape.dtype.itemsize)
    by_itself = mode != "saved" and pays(architecture(device), shape.hidden, mode)
    all_candidates = candidates(case, processors(device), entries.get(key, DEFAULTS), epilogue=by_itself)[:most]
    by_name = {candidate.name: candidate for candidate in all_candidates}
    runs: dict[str, Run] = {}
    default, *others = by_name
    right: tuple[Tensor, ...] = ()
    warmed_until = time.monotonic() + (deadline - time.monotonic()) / 2
    for name, candidate in by_name.items():
        if name != default and time.monotonic() > warmed_until:
            break
        run = _run(problem, mode, candidate, entries | {key: candidate.settings})
        results = run()  # compiles
        if name == default:
            right = results
        elif max(relative_errors(results, right)) > TOLERANCE[shape.dtype]:
            print(f"{mode}, {name}: results differ from the default's, so it is left out.", file=sys.stderr)
            continue
        runs[name] = run
    groups = [[name for name in others if name in runs and by_name[name].fits == fits] for fits in (True, False)]
    standings = race(runs, default, groups, device, deadline)
    return ModeResult(case, by_name, standings, untried=len(all_candidates) - len(runs))


def _run(problem: HeadProblem, mode: Mode, candidate: Candidate, entries: Entries) -> Run:
    """As training calls the operator: the supervised tokens alone."""
    kind, save = RUNS[mode]
    labels, head = problem.labels[problem.supervised], problem.head(kind)

    def run() -> tuple[Tensor, ...]:
        with using(entries), torch.no_grad() if kind == NO_GRADIENT else contextlib.nullcontext():
            logps = linear_token_logps(
                problem.hidden,
                head,
                labels,
                hidden_index=problem.supervised,
                softcap=problem.shape.softcap,
                workspace_mb=max(WORKSPACE_MB, candidate.mib),
                save=save,
                all_served=True,
            )
            return problem.gradients(-logps.mean(), kind)

    return run


def read(path: Path) -> Entries:
    """Nothing where there is no file."""
    return dict(table(str(path))) if path.exists() else {}


def write(path: Path, entries: Entries) -> None:
    """One entry a line."""
    lines = [json.dumps(_entry(key, settings)) for key, settings in sorted(entries.items(), key=lambda item: item[0])]
    with written_aside(path) as aside:
        aside.write_text("[" + ",\n ".join(lines) + "]\n")


def _entry(key: Key, settings: Tuned) -> dict[str, Any]:
    device, features, mode = key
    chosen = {name: value for name, value in asdict(settings).items() if value is not None}
    return {"device": device, "hidden_size": features, "mode": mode} | chosen


def markdown(shape: Shape, results: Sequence[ModeResult]) -> Iterator[str]:
    """Each mode's default and what took part in the last rounds, the fastest first."""
    first = results[0].case
    yield f"### {shape.name}: {first.tokens} tokens, H={first.features}, V={first.vocab}, {shape.as_dict()['dtype']}"
    yield ""
    yield "| mode | rows × width | MiB | ms | quartiles | over default | |"
    yield "|---|---|--:|--:|--:|--:|---|"
    remarks = []
    for one in results:
        finalists = [key for key, standing in one.standings.items() if _rounds(one, key) == _rounds(one, one.default)]
        finalists.sort(key=lambda key: one.standings[key].over_default)
        for key in finalists:
            standing, candidate = one.standings[key], one.candidates[key]
            times = quartiles(standing.times_ms)
            assert times is not None, "a finalist was timed"
            remark = "default" if key == one.default else "**written**" if key == one.best else ""
            remark = remark if candidate.fits else f"more than {WORKSPACE_MB} MiB"
            cells = (
                one.case.mode,
                key,
                f"{candidate.mib}",
                f"{times['median']:.4g}",
                f"{times['low']:.4g}–{times['high']:.4g}",
                f"{standing.over_default:.3f}",
                remark,
            )
            yield f"| {' | '.join(cells)} |"
        remarks.append(_remark(one))
    yield ""
    yield from remarks


def _rounds(result: ModeResult, key: str) -> int:
    return len(result.standings[key].times_ms)


def _remark(result: ModeResult) -> str:
    best, larger = result.best, result.best_with_more_memory
    kept = 1.0 if best is None else result.standings[best].over_default
    sentences = [f"- {result.case.mode}: {'no entry, the default is as fast' if best is None else f'written, {best}'}."]
    if larger is not None and result.standings[larger].over_default < kept:
        gain = 1 - result.standings[larger].over_default / kept
        sentences.append(f"{result.candidates[larger].mib} MiB would save another {100 * gain:.1f} %: {larger}.")
    else:
        sentences.append(f"Up to {max(BUDGETS_MB)} MiB buy nothing that was measured.")
    if result.untried:
        sentences.append(f"{result.untried} candidates were not timed.")
    return " ".join(sentences)
