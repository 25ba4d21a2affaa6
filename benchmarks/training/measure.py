"""A case measured: all contenders in turn on the same pairs, round by round."""

from __future__ import annotations

import math
import random
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np
import torch

from benchmarks.table import quartiles
from benchmarks.training.case import Case, Job
from benchmarks.training.flops import layer_parameters, step_flops
from benchmarks.training.gate import CHECKED_STEPS, Order, Turn
from benchmarks.training.processes import ContenderFailed, NoTimeLeft, Worker, make_ready, profile, reference_of
from benchmarks.training.profile import Profile
from iwpo_fast.data.pairs import Pairs

LABELS = {"ours": "iwpo_fast", "trl": "TRL DPOTrainer", "plain": "plain PyTorch"}
PEERS = ("trl", "plain")
FEWEST_ROUNDS = 1
BYTES_OF_A_TRAINED_PARAMETER = 16  # float32: itself, its gradient, two moments of AdamW
BYTES_OF_A_FROZEN_PARAMETER = 2
SHARE_OF_PARAMETERS = 0.35  # of a GPU's memory; the rest is for activations and logits
MIB = 1 << 20
OK, WRONG, FAILED = "ok", "wrong", "failed"
TOLERANCE = {torch.float32: 2e-3, torch.bfloat16: 2e-2}


@dataclass(frozen=True)
class Plan:
    """How to measure.

    Attributes:
        contenders: names of modules in `contenders`.
        rounds: samples of each; fewer, but at least `FEWEST_ROUNDS`, where the deadline passes.
        timed: steps of a sample.
        deadline: by `time.monotonic`; no further round and no profile is started after it, and what is under way then
            has `processes.GRACE` seconds left.
        profiles: whether to say where the time goes.
    """

    contenders: Sequence[str]
    rounds: int
    timed: int
    deadline: float = math.inf
    profiles: bool = True

    @property
    def is_over(self) -> bool:
        return time.monotonic() > self.deadline


@dataclass
class Record:
    """A contender with one setting.

    Attributes:
        status: "ok", "wrong" (and therefore not timed) or "failed"; `message` says why.
        error: largest difference from the first contender in what the first steps report.
        seconds: of one step, one sample per round; sample i of all contenders is of the same pairs.
        cpu_seconds: the same, by the clock of the process, all threads together.
        extra_mib: at the peak of all steps beyond model and data: gradients, optimiser, activations, scratch; as the
            times, only of those whose status is "ok".
        state_mib: of that, gradients and optimiser, which no contender can do without.
        padded_share: padding among the tokens that it computes on.
    """

    contender: str
    micro_pairs: int
    padded_share: float
    status: str = OK
    message: str = ""
    error: float | None = None
    seconds: list[float] = field(default_factory=list)
    cpu_seconds: list[float] = field(default_factory=list)
    extra_mib: float | None = None
    state_mib: float | None = None
    profile: Profile | None = None

    @property
    def label(self) -> str:
        return LABELS[self.contender]

    @property
    def median(self) -> float:
        found = quartiles(self.seconds)
        return math.inf if found is None else found["median"]


@dataclass
class Measured:
    """What was found in a case.

    Attributes:
        tokens, flops: of one step, without padding, a mean for each round.
        supervised_share: completion tokens among them.
    """

    case: Case
    tokens: list[float]
    flops: list[float]
    supervised_share: float
    records: list[Record]

    def rate(self, record: Record) -> dict[str, float] | None:
        """Tokens a second without padding: median and quartiles over rounds."""
        return quartiles([n / s for n, s in zip(self.tokens, record.seconds, strict=False)])

    def pairs_rate(self, record: Record) -> dict[str, float] | None:
        return quartiles([self.case.pairs_per_step / s for s in record.seconds])

    def flops_rate(self, record: Record) -> dict[str, float] | None:
        return quartiles([n / s for n, s in zip(self.flops, record.seconds, strict=False)])

    def fastest(self, contender: str) -> Record | None:
        timed = [r for r in self.records if r.contender == contender and r.seconds]
        return min(timed, key=lambda r: r.median, default=None)

    def as_dict(self) -> dict[str, Any]:
        """JSON-ready."""
        rates = [
            {"tokens_per_s": self.rate(r), "pairs_per_s": self.pairs_rate(r), "flops": self.flops_rate(r)}
            for r in self.records
        ]
        records = [asdict(record) | rate for record, rate in zip(self.records, rates, strict=True)]
        facts = {"tokens_per_step": self.tokens, "supervised_share": self.supervised_share}
        return {"case": asdict(self.case)} | facts | {"records": records}


def steps_needed(plan: Plan, device: str) -> int:
    return CHECKED_STEPS + plan.rounds * (_untimed(device) + plan.timed)


def measure(case: Case, pairs: Pairs, plan: Plan) -> Measured:
    """All contenders with all settings of the case.

    Args:
        pairs: taken in order, and again from the start where they do not suffice.
    """
    say(f"{case.name}: reference log-probs")
    steps = steps_needed(plan, case.device)
    pairs = pairs.take(np.arange(steps * case.pairs_per_step) % len(pairs))
    completions = float(pairs.chosen.lengths.sum() + pairs.rejected.lengths.sum())
    supervised = completions / float(pairs.tokens.sum())
    records = [
        Record(contender, micro, padding(pairs, micro) if contender in PEERS else 0.0)
        for micro in case.micro_pairs
        for contender in plan.contenders
    ]
    found = Measured(case, [], [], supervised, records)
    apart = must_be_apart(case, len(records))
    make_ready(case, dict.fromkeys(("ours", *plan.contenders)))
    try:
        reference = reference_of(case, pairs, plan.deadline)
    except ContenderFailed as error:
        for record in records:
            record.status, record.message = FAILED, f"no reference log-probs: {error}"
        return found
    jobs = {id(record): Job(case, pairs, reference, record.micro_pairs) for record in records}
    lanes = [Lane(record, jobs[id(record)], apart, plan.deadline) for record in records]
    try:
        say("checking, and measuring memory")
        check(lanes, case.compute_dtype)
        say("timing")
        time_lanes(lanes, plan, found)
    finally:
        for lane in lanes:
            lane.stop()
    if plan.profiles:
        say("profiling")
        for record in filter(None, map(found.fastest, plan.contenders)):
            if plan.is_over:
                break
            try:
                record.profile = profile(record.contender, jobs[id(record)], plan.deadline)
            except ContenderFailed as error:
                record.message = f"no profile: {error}"
    return found


class Lane:
    """A record, and the training that fills it: one for all turns, or a new one for each where memory is scarce."""

    def __init__(self, record: Record, job: Job, apart: bool, deadline: float = math.inf) -> None:
        self.record, self.job, self.apart, self.deadline = record, job, apart, deadline
        self._worker = None if apart else Worker(record.contender, job, deadline)

    def turn(self, order: Order) -> Turn | None:
        """None where it failed, now or before. Raises NoTimeLeft."""
        if self.record.status != OK:
            return None
        try:
            if self._worker is None:
                self._worker = Worker(self.record.contender, self.job, self.deadline)
            turn = self._worker.turn(order)
        except NoTimeLeft:
            self.stop()
            raise
        except ContenderFailed as error:
            self.record.status, self.record.message = FAILED, str(error)
            self.stop()
            return None
        self.record.extra_mib = max(self.record.extra_mib or 0.0, turn.extra / MIB)
        self.record.state_mib = 3 * turn.trainable / MIB  # gradients and both moments of AdamW
        if self.apart:
            self.stop()
        return turn

    def stop(self) -> None:
        if self._worker is not None:
            self._worker.stop()
            self._worker = None


def check(lanes: Sequence[Lane], dtype: torch.dtype) -> None:
    """The first steps, whose metrics have to agree: a contender that trains otherwise is not timed."""
    expected: list[dict[str, float]] = []
    for lane in lanes:
        try:
            turn = lane.turn(Order(0, CHECKED_STEPS))
        except NoTimeLeft as error:
            lane.record.status, lane.record.message = FAILED, str(error)
            continue
        if turn is None:
            continue
        expected = expected or turn.checked
        lane.record.error = difference(turn.checked, expected, dtype)
        if lane.record.error > TOLERANCE[dtype]:
            lane.record.status, lane.record.message = WRONG, f"metrics of its first steps: {turn.checked}"
            lane.stop()


def difference(found: list[dict[str, float]], expected: list[dict[str, float]], dtype: torch.dtype) -> float:
    """Largest relative difference of log-probs, and of log-ratios' mean margins as a share of 1.

    Margins of bfloat16 models are rounding, at first, and left out.
    """
    errors = []
    for ours, theirs in zip(found, expected, strict=True):
        errors += [abs(ours[n] - theirs[n]) / abs(theirs[n]) for n in ("logps/chosen", "logps/rejected")]
        if dtype == torch.float32:
            errors.append(abs(ours["rewards/margins"] - theirs["rewards/margins"]))
    return max(errors) if all(map(math.isfinite, errors)) else math.inf


def time_lanes(lanes: Sequence[Lane], plan: Plan, found: Measured) -> None:
    """One sample of each lane per round, in a new order each round."""
    shuffled, generator = list(lanes), random.Random(0)
    for round_ in range(plan.rounds):
        if round_ >= FEWEST_ROUNDS and plan.is_over:
            break
        generator.shuffle(shuffled)
        try:
            turns = [(lane, lane.turn(order_of(lane, plan))) for lane in shuffled]
        except NoTimeLeft:
            break
        for lane, turn in turns:
            if turn is not None:
                lane.record.seconds.append(turn.seconds / plan.timed)
                lane.record.cpu_seconds.append(turn.cpu_seconds / plan.timed)
        # Apart, each round repeats the steps after the checked ones.
        first = CHECKED_STEPS
        if not lanes[0].apart:
            first += round_ * (_untimed(found.case.device) + plan.timed) + _untimed(found.case.device)
        job = lanes[0].job
        timed = job.pairs.take(np.concatenate([job.rows(step) for step in range(first, first + plan.timed)]))
        found.tokens.append(float(timed.tokens.sum()) / plan.timed)
        found.flops.append(step_flops(found.case, timed) / plan.timed)
    for record in (lane.record for lane in lanes if lane.record.status != OK):
        record.seconds, record.cpu_seconds, record.extra_mib, record.state_mib = [], [], None, None


def order_of(lane: Lane, plan: Plan) -> Order:
    return Order(CHECKED_STEPS if lane.apart else _untimed(lane.job.case.device), plan.timed)


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


def say(line: str) -> None:
    print(line, file=sys.stderr, flush=True)
