"""A case measured: all contenders in turn on the same pairs, round by round."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from functools import partial
from statistics import median
from typing import Any

import numpy as np
import torch

from benchmarks.harness import OK, WRONG, Plan, Record, guard, in_turn, quartiles, say
from benchmarks.processes import NoTimeLeft, ProcessFailed
from benchmarks.training.case import Case, Job
from benchmarks.training.flops import layer_parameters, step_flops
from benchmarks.training.gate import CHECKED_STEPS
from benchmarks.training.workers import Lane, make_ready, profile, reference_of
from iwpo_fast.data.pairs import Pairs

LABELS = {"ours": "iwpo_fast", "trl": "TRL DPOTrainer", "plain": "plain PyTorch"}
PEERS = ("trl", "plain")
FEWEST_ROUNDS = 1
BYTES_OF_A_TRAINED_PARAMETER = 16  # float32: itself, its gradient, two moments of AdamW
BYTES_OF_A_FROZEN_PARAMETER = 2
SHARE_OF_PARAMETERS = 0.35  # of a GPU's memory; the rest is for activations and logits
TOLERANCE = {torch.float32: 2e-3, torch.bfloat16: 2e-2}


@dataclass
class Measured:
    """What was measured in a case.

    Attributes:
        tokens, flops: of one step, without padding, a mean for each round.
        supervised_share: completion tokens among them.
        records: of each contender with each setting, see `record_of`.
    """

    case: Case
    tokens: list[float]
    flops: list[float]
    supervised_share: float
    records: list[Record]

    def rate(self, record: Record) -> dict[str, float] | None:
        """Tokens a second without padding: median and quartiles over rounds."""
        return quartiles([n / s for n, s in zip(self.tokens, record.times, strict=False)])

    def pairs_rate(self, record: Record) -> dict[str, float] | None:
        return quartiles([self.case.pairs_per_step / s for s in record.times])

    def flops_rate(self, record: Record) -> dict[str, float] | None:
        return quartiles([n / s for n, s in zip(self.flops, record.times, strict=False)])

    def fastest(self, contender: str) -> Record | None:
        timed = [r for r in self.records if r.library == contender and r.times]
        return min(timed, key=lambda r: median(r.times), default=None)

    def as_dict(self) -> dict[str, Any]:
        """JSON-ready."""
        facts = {"tokens_per_step": self.tokens, "supervised_share": self.supervised_share}
        return {"case": asdict(self.case)} | facts | {"records": [self._as_dict(record) for record in self.records]}

    def _as_dict(self, record: Record) -> dict[str, Any]:
        fields: dict[str, Any] = {"contender": record.library, "status": record.status, "message": record.message}
        fields |= {"error": record.errors[0] if record.errors else None, "seconds": record.times}
        rates = {"tokens_per_s": self.rate(record), "pairs_per_s": self.pairs_rate(record)}
        fields |= {"extra_mib": record.extra_mib, "flops": self.flops_rate(record)}
        return fields | record.facts | rates


def record_of(contender: str, micro_pairs: int, padded_share: float = 0.0) -> Record:
    """A contender with one setting. Its error is the largest difference from the first contender in the first steps.

    Its memory is the peak of all steps beyond model and data: gradients, optimiser, activations, scratch. As the times,
    it is only of those whose status is "ok". Facts:

        padded_share: padding among the tokens that it computes on.
        cpu_seconds: as the times, by the clock of the process, all threads together.
        state_mib: gradients and optimiser, which no contender can do without.
        profile: see `profile`.
    """
    facts: dict[str, Any] = {"micro_pairs": micro_pairs, "padded_share": padded_share}
    facts |= {"cpu_seconds": [], "state_mib": None, "profile": None}
    return Record(LABELS[contender], contender, f"{micro_pairs} pairs at once", facts)


def steps_needed(plan: Plan) -> int:
    return CHECKED_STEPS + plan.rounds * (_untimed(plan.device.type) + plan.timed)


def measure(case: Case, pairs: Pairs, plan: Plan) -> Measured:
    """All contenders with all settings of the case.

    Args:
        pairs: taken in order, and again from the start where they do not suffice.
    """
    say(f"{case.name}: reference log-probs")
    pairs = pairs.take(np.arange(steps_needed(plan) * case.pairs_per_step) % len(pairs))
    completions = float(pairs.chosen.lengths.sum() + pairs.rejected.lengths.sum())
    records = [
        record_of(contender, micro, padding(pairs, micro) if contender in PEERS else 0.0)
        for micro in case.micro_pairs
        for contender in plan.libraries
    ]
    measured = Measured(case, [], [], completions / float(pairs.tokens.sum()), records)
    apart = must_be_apart(case, len(records))
    make_ready(case, dict.fromkeys(("ours", *plan.libraries)))
    try:
        job = partial(Job, case, pairs, reference_of(case, pairs, plan.deadline))
    except ProcessFailed as error:
        for record in records:
            record.status, record.message = error.status, f"no reference log-probs: {error}"
        return measured
    lanes = [Lane(record, job(record.facts["micro_pairs"]), apart, plan.deadline) for record in records]
    try:
        say("checking, and measuring memory")
        check(lanes, case.compute_dtype)
        say("timing")
        time_lanes(lanes, plan, measured)
    finally:
        for lane in lanes:
            lane.stop()
    if plan.profiles:
        say("profiling")
        for record in filter(None, map(measured.fastest, plan.libraries)):
            if plan.is_over:
                break
            try:
                record.facts["profile"] = profile(record.library, job(record.facts["micro_pairs"]), plan.deadline)
            except ProcessFailed as error:
                record.message = f"no profile: {error}"
    return measured


def check(lanes: Sequence[Lane], dtype: torch.dtype) -> None:
    """The first steps, whose metrics have to agree: a contender that trains otherwise is not timed."""
    expected: list[dict[str, float]] = []
    for lane in lanes:
        record, turn = lane.record, None
        with guard([record]):
            turn = lane.turn((0, CHECKED_STEPS))
        if turn is None:
            continue
        expected = expected or turn.checked
        record.errors = [difference(turn.checked, expected, dtype)]
        if record.errors[0] > TOLERANCE[dtype]:
            record.status, record.message = WRONG, f"metrics of its first steps: {turn.checked}"
            lane.stop()


def difference(values: list[dict[str, float]], expected: list[dict[str, float]], dtype: torch.dtype) -> float:
    """Largest relative difference of log-probs, and of log-ratios' mean margins as a share of 1.

    Margins of bfloat16 models are rounding, at first, and left out.
    """
    errors = []
    for ours, theirs in zip(values, expected, strict=True):
        errors += [abs(ours[n] - theirs[n]) / abs(theirs[n]) for n in ("logps/chosen", "logps/rejected")]
        if dtype == torch.float32:
            errors.append(abs(ours["rewards/margins"] - theirs["rewards/margins"]))
    return max(errors) if all(map(math.isfinite, errors)) else math.inf


def time_lanes(lanes: Sequence[Lane], plan: Plan, measured: Measured) -> None:
    """One sample of each lane per round."""
    untimed, apart, job = _untimed(measured.case.device), lanes[0].apart, lanes[0].job
    steps = (CHECKED_STEPS if apart else untimed, plan.timed)
    for round_, order in enumerate(in_turn(lanes, plan.rounds, FEWEST_ROUNDS, plan.deadline)):
        try:
            turns = [(lane.record, lane.turn(steps)) for lane in order]
        except NoTimeLeft:
            break
        for record, turn in turns:
            if turn is not None:
                record.times.append(turn.seconds / plan.timed)
                record.facts["cpu_seconds"].append(turn.cpu_seconds / plan.timed)
        # Apart, each round repeats the steps after the checked ones.
        first = CHECKED_STEPS + (0 if apart else round_ * (untimed + plan.timed) + untimed)
        timed = job.pairs.take(np.concatenate([job.rows(step) for step in range(first, first + plan.timed)]))
        measured.tokens.append(float(timed.tokens.sum()) / plan.timed)
        measured.flops.append(step_flops(measured.case, timed) / plan.timed)
    for record in (record for record in measured.records if record.status != OK):
        record.times, record.extra_mib = [], None
        record.facts |= {"cpu_seconds": [], "state_mib": None}


def padding(pairs: Pairs, micro_pairs: int) -> float:
    """Share of padding in batches of so many pairs, both sides of all of them padded to the longest."""
    longest = pairs.prompt.lengths + np.maximum(pairs.chosen.lengths, pairs.rejected.lengths)
    batches = longest.reshape(-1, micro_pairs)
    return 1 - float(pairs.tokens.sum()) / float((2 * micro_pairs * batches.max(1)).sum())


def must_be_apart(case: Case, contenders: int) -> bool:
    """Whether weights, gradients and optimisers of all would leave a GPU too little for one's activations."""
    if not case.device.startswith("cuda"):
        return False
    model = case.model
    parameters = layer_parameters(model) + model.vocab * model.hidden * (1 if model.tied else 2)
    each = parameters * (BYTES_OF_A_FROZEN_PARAMETER if case.lora else BYTES_OF_A_TRAINED_PARAMETER)
    return contenders * each > SHARE_OF_PARAMETERS * torch.cuda.get_device_properties(0).total_memory


def _untimed(device: str) -> int:
    """Steps before each sample: on a GPU, to fill the allocator's cache again, which turns of others have emptied."""
    return 1 if device.startswith("cuda") else 0
