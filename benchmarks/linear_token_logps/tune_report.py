"""What the tuner found, as Markdown."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from benchmarks.harness import quartiles
from benchmarks.linear_token_logps.candidates import BUDGETS_MB, Candidate
from benchmarks.linear_token_logps.costs import WORKSPACE_MB, Case
from benchmarks.linear_token_logps.race import Standing
from benchmarks.suite import Shape


@dataclass(frozen=True)
class Found:
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


def markdown(shape: Shape, found: Sequence[Found]) -> Iterator[str]:
    """Each mode's default and what took part in the last rounds, the fastest first."""
    first = found[0].case
    yield f"### {shape.name}: {first.tokens} tokens, H={first.features}, V={first.vocab}, {shape.as_dict()['dtype']}"
    yield ""
    yield "| mode | rows × width | MiB | ms | quartiles | over default | |"
    yield "|---|---|--:|--:|--:|--:|---|"
    remarks = []
    for one in found:
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


def _rounds(found: Found, key: str) -> int:
    return len(found.standings[key].times_ms)


def _remark(found: Found) -> str:
    best, larger = found.best, found.best_with_more_memory
    kept = 1.0 if best is None else found.standings[best].over_default
    sentences = [f"- {found.case.mode}: {'no entry, the default is as fast' if best is None else f'written, {best}'}."]
    if larger is not None and found.standings[larger].over_default < kept:
        gain = 1 - found.standings[larger].over_default / kept
        sentences.append(f"{found.candidates[larger].mib} MiB would save another {100 * gain:.1f} %: {larger}.")
    else:
        sentences.append(f"Up to {max(BUDGETS_MB)} MiB buy nothing that was measured.")
    if found.untried:
        sentences.append(f"{found.untried} candidates were not timed.")
    return " ".join(sentences)
