"""The training benchmark at tiny shapes, each contender in a thread instead of a process. No time is asserted."""

from __future__ import annotations

import json
import sys
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import replace
from multiprocessing import Pipe
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from forked import HANG
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from benchmarks import harness, processes
from benchmarks.harness import OK, WRONG, Plan, Record
from benchmarks.processes import FAILED, NO_MEMORY, Host, NoTimeLeft
from benchmarks.training import __main__ as run
from benchmarks.training import measure, workers
from benchmarks.training.case import Case, Job, build_model
from benchmarks.training.flops import layer_parameters, step_flops
from benchmarks.training.gate import CHECKED, CHECKED_STEPS, Order, RemoteGate
from benchmarks.training.measure import Measured, record_of
from benchmarks.training.pairs import LENGTHS, equal_pairs, synthetic_pairs
from benchmarks.training.profile import PARTS, ProfilingGate, mark_parts, parts_of
from benchmarks.training.report import targets_of
from benchmarks.training.shapes import LLAMA_EIGHT, QWEN_HALF, QWEN_ONE_AND_HALF, SMOKE, smoke_cases
from benchmarks.training.workers import CountingGate, Lane, reference_of
from iwpo_fast.data.pairs import Pairs
from iwpo_fast.data.ragged import Ragged

FULL, ADAPTER = smoke_cases("cpu")
CPU = torch.device("cpu")


class ThreadAsProcess(threading.Thread):
    def kill(self) -> None: ...


@pytest.fixture(autouse=True)
def threads(monkeypatch: pytest.MonkeyPatch) -> None:
    """Contenders run in threads of this process, and do not change its number of threads."""

    def start(device: str) -> tuple[Any, ThreadAsProcess]:
        ours, theirs = Pipe()
        thread = ThreadAsProcess(target=processes._run, args=(theirs,), daemon=True)
        thread.start()
        return ours, thread

    begin = Host.begin

    def begin_alone(self: Host, *task: Any) -> None:
        begin(self, *task)
        self._connection.poll(HANG)  # Threads share the random numbers that models are made of.

    monkeypatch.setattr(processes, "_start", start)
    monkeypatch.setattr(Host, "begin", begin_alone)
    monkeypatch.setattr(workers, "_settle", lambda case: None)


def pairs_of(*rows: tuple[int, int, int], vocab: int = SMOKE.vocab) -> Pairs:
    """Pairs with so many tokens in prompt, chosen and rejected completion."""
    random = np.random.default_rng(0)
    parts = [Ragged.from_rows([random.integers(1, vocab, n) for n in lengths]) for lengths in zip(*rows, strict=True)]
    return Pairs(*parts, weight=np.ones(len(rows)))


def install(monkeypatch: pytest.MonkeyPatch, name: str, train: Callable[[Job, Any], None]) -> None:
    """A contender of that name."""
    monkeypatch.setitem(sys.modules, f"benchmarks.training.contenders.{name}", SimpleNamespace(train=train))
    monkeypatch.setitem(measure.LABELS, name, name)


def constant_steps(logp: float) -> Callable[[Job, Any], None]:
    """A training that does nothing, and reports that log-prob."""

    def train(job: Job, gate: Any) -> None:
        going = gate.ready(nn.Linear(2, 2))
        while going:
            going = gate.step_done(lambda: dict.fromkeys(CHECKED, logp))

    return train


@pytest.mark.slow
@pytest.mark.parametrize("name", list(LENGTHS))
def test_synthetic_pairs_have_the_medians_of_their_data_and_keep_to_the_limit(name: str) -> None:
    pairs = synthetic_pairs(name, 4000, vocab=100, max_length=100_000)
    wanted = LENGTHS[name]
    assert np.median(pairs.prompt.lengths) == pytest.approx(wanted[0][0], rel=0.06)
    assert np.median(pairs.chosen.lengths) == pytest.approx(wanted[1][0], rel=0.06)
    cut = synthetic_pairs(name, 500, vocab=100, max_length=64)
    longest = cut.prompt.lengths + np.maximum(cut.chosen.lengths, cut.rejected.lengths)
    assert longest.max() <= 64
    assert min(part.lengths.min() for part in (cut.prompt, cut.chosen, cut.rejected)) >= 1
    assert min(part.values.min() for part in (cut.prompt, cut.chosen, cut.rejected)) > 0  # 0 is padding


def test_equal_pairs_never_exceed_their_length_and_some_reach_it() -> None:
    pairs = equal_pairs(200, vocab=50, length=32)
    sequences = pairs.prompt.lengths + np.maximum(pairs.chosen.lengths, pairs.rejected.lengths)
    assert sequences.max() == 32
    assert (pairs.prompt.lengths == 16).all()


@pytest.mark.parametrize(
    ("shape", "published"), [(QWEN_HALF, 494_032_768), (QWEN_ONE_AND_HALF, 1_543_714_304), (LLAMA_EIGHT, 8_030_261_248)]
)
def test_model_shapes_have_the_published_numbers_of_parameters(shape: Any, published: int) -> None:
    model = build_model(replace(FULL, model=shape, device="meta"))
    parameters = {id(p): p for p in model.parameters()}.values()
    assert sum(p.numel() for p in parameters) == published
    matrices = sum(p.numel() for p in parameters if p.ndim == 2)
    assert layer_parameters(shape) + shape.vocab * shape.hidden * (1 if shape.tied else 2) == matrices


def test_step_flops_are_the_products_that_pytorch_counts_and_causal_attention() -> None:
    model = build_model(FULL)
    pairs = pairs_of((0, 7, 7))  # without a prompt the head works on all tokens
    ids = torch.from_numpy(np.stack([pairs.chosen[0], pairs.rejected[0]]).astype(np.int64))
    with FlopCounterMode(display=False) as counter:
        model(input_ids=ids, use_cache=False).logits.sum().backward()
    counted = counter.get_flop_counts()["Global"]
    products = sum(n for operator, n in counted.items() if str(operator) in ("aten.mm", "aten.addmm"))
    attention = SMOKE.layers * SMOKE.heads * SMOKE.head_size * 2 * 7**2
    assert step_flops(FULL, pairs) == products + 6 * attention


def test_frozen_weights_need_two_thirds_of_the_products() -> None:
    short = pairs_of((1, 1, 1))
    attention = 6 * SMOKE.layers * SMOKE.heads * SMOKE.head_size * 2 * 2**2
    assert step_flops(ADAPTER, short) - attention == (step_flops(FULL, short) - attention) * 2 / 3


def test_padding_is_what_rectangles_around_both_sides_add() -> None:
    pairs = pairs_of((2, 3, 1), (4, 1, 4), (1, 1, 1), (1, 2, 1))
    tokens = 8 + 13 + 4 + 5
    assert measure.padding(pairs, 2) == pytest.approx(1 - tokens / (4 * 8 + 4 * 3))
    assert measure.padding(pairs, 4) == pytest.approx(1 - tokens / (8 * 8))


class ToyAttention(nn.Linear):
    pass


class ToyMLP(nn.Sequential):
    pass


class Toy(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.attention = ToyAttention(8, 8, bias=False)
        self.mlp = ToyMLP(nn.Linear(8, 16, bias=False), nn.Linear(16, 8, bias=False))
        self.head = nn.Linear(8, 4, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.mlp(self.attention(x)))


def test_products_of_forward_and_backward_pass_go_to_the_part_that_they_belong_to() -> None:
    toy = Toy()
    mark_parts(toy)
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU]) as profiler:
        (toy(torch.randn(5, 8, requires_grad=True)) @ torch.randn(4, 3)).sum().backward()
    counted = Counter(part for event, part in parts_of(profiler.events()) if event.name == "aten::mm")
    # One product forward and two backward for each layer; the one outside of the model has one input without gradient.
    assert counted == {"attention": 3, "MLP": 6, "head": 3, "loss, batches, clipping": 2}


@pytest.mark.slow
@pytest.mark.parametrize("case", [FULL, ADAPTER], ids=lambda case: case.name)
def test_profile_of_our_step_finds_every_part_and_adds_up(case: Case) -> None:
    pairs = equal_pairs(12, vocab=SMOKE.vocab, length=16)
    job = Job(case, pairs, reference_of(case, pairs), 4)
    gate = ProfilingGate(torch.device("cpu"))
    workers._module("ours").train(job, gate)
    found = gate.profile()
    assert set(found["parts"]) == set(PARTS)
    assert min(found["parts"].values()) > 0
    assert sum(found["parts"].values()) == pytest.approx(found["seconds"])


@pytest.mark.slow
@pytest.mark.parametrize(("peer", "case"), [("plain", FULL), ("trl", FULL), ("trl", ADAPTER)])
def test_contenders_train_alike(peer: str, case: Case) -> None:
    if peer == "trl":
        pytest.importorskip("trl")
    plan = Plan(CPU, ("ours", peer), rounds=1, timed=1, profiles=False)
    pairs = pairs_of((5, 3, 4), (2, 6, 1), (3, 3, 3), (8, 2, 5), (1, 4, 7), (6, 6, 2))
    found = measure.measure(replace(case, micro_pairs=(2,)), pairs, plan)
    ours, theirs = found.records
    assert (ours.status, theirs.status, ours.message, theirs.message) == (OK, OK, "", "")
    assert ours.errors == [0] and 0 < theirs.errors[0] < 2e-4
    assert len(ours.times) == len(theirs.times) == 1
    assert ours.facts["state_mib"] == theirs.facts["state_mib"] is not None


@pytest.mark.slow
def test_a_contender_that_trains_otherwise_is_not_timed(monkeypatch: pytest.MonkeyPatch) -> None:
    install(monkeypatch, "same", constant_steps(-3.0))
    install(monkeypatch, "other", constant_steps(-3.1))
    plan = Plan(CPU, ("same", "other"), rounds=2, timed=1, profiles=False)
    found = measure.measure(replace(FULL, micro_pairs=(4,)), pairs_of((2, 2, 2)), plan)
    assert [record.status for record in found.records] == [OK, WRONG]
    assert [len(record.times) for record in found.records] == [2, 0]
    assert [record.extra_mib is None for record in found.records] == [False, True]


def test_a_contender_that_fails_is_reported_and_the_others_go_on(monkeypatch: pytest.MonkeyPatch) -> None:
    def out_of_memory(job: Job, gate: Any) -> None:
        raise torch.OutOfMemoryError("no room")

    install(monkeypatch, "same", constant_steps(-3.0))
    install(monkeypatch, "broken", out_of_memory)
    plan = Plan(CPU, ("broken", "same"), rounds=2, timed=1, profiles=False)
    found = measure.measure(replace(FULL, micro_pairs=(4,)), pairs_of((2, 2, 2)), plan)
    assert [record.status for record in found.records] == [NO_MEMORY, OK]
    assert found.records[0].message == "OutOfMemoryError: no room"
    assert [len(record.times) for record in found.records] == [0, 2]


@pytest.mark.slow
@pytest.mark.parametrize("apart", [False, True])
def test_every_round_counts_the_tokens_of_the_steps_that_it_times(monkeypatch: pytest.MonkeyPatch, apart: bool) -> None:
    install(monkeypatch, "same", constant_steps(-3.0))
    monkeypatch.setattr(measure, "must_be_apart", lambda case, contenders: apart)
    plan = Plan(CPU, ("same",), rounds=2, timed=2, profiles=False)
    case = replace(FULL, pairs_per_step=1, micro_pairs=(1,))
    found = measure.measure(case, pairs_of(*((step, 1, 1) for step in range(1, 20))), plan)
    tokens = [2 * (step + 2) for step in range(20)]  # of step s, whose prompt has s + 1 tokens
    first = CHECKED_STEPS
    later = first if apart else first + 2
    assert found.tokens == [np.mean(tokens[first : first + 2]), np.mean(tokens[later : later + 2])]


@pytest.mark.parametrize(
    ("shape", "contenders", "lora", "apart"),
    [
        (QWEN_HALF, 2, False, False),  # 2 · 7.9 GB
        (QWEN_ONE_AND_HALF, 1, False, False),  # 24.7 GB
        (QWEN_ONE_AND_HALF, 2, False, True),
        (LLAMA_EIGHT, 1, True, False),  # 16.1 GB
        (LLAMA_EIGHT, 2, True, True),
    ],
)
def test_contenders_are_apart_where_their_parameters_take_more_than_a_third_of_80_gb(
    monkeypatch: pytest.MonkeyPatch, shape: Any, contenders: int, lora: bool, apart: bool
) -> None:
    card = SimpleNamespace(total_memory=80 * 10**9)
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda index: card)
    assert measure.must_be_apart(replace(FULL, model=shape, lora=lora, device="cuda"), contenders) == apart


@pytest.mark.slow
@pytest.mark.parametrize("apart", [False, True])
def test_where_processes_are_used_again_each_contender_has_one_for_all_its_tasks(
    monkeypatch: pytest.MonkeyPatch, apart: bool
) -> None:
    started: list[str] = []
    start = processes._start
    monkeypatch.setattr(processes, "_start", lambda device: started.append(device) or start(device))
    monkeypatch.setattr(workers, "is_used_again", lambda device: True)
    monkeypatch.setattr(measure, "make_ready", lambda case, contenders: None)
    monkeypatch.setattr(measure, "must_be_apart", lambda case, contenders: apart)
    install(monkeypatch, "ours", constant_steps(-3.0))
    install(monkeypatch, "other", constant_steps(-3.0))
    ours = sys.modules["benchmarks.training.contenders.ours"]
    ours.reference = lambda case, pairs: np.zeros((len(pairs), 2), np.float32)
    plan = Plan(CPU, ("ours", "other"), rounds=2, timed=1, profiles=True)
    found = measure.measure(replace(FULL, micro_pairs=(4,)), pairs_of((2, 2, 2)), plan)
    workers.end_idle()
    assert [(r.status, len(r.times), r.facts["profile"] is not None) for r in found.records] == 2 * [(OK, 2, True)]
    assert len(started) == 2


@pytest.mark.slow
def test_a_contender_that_never_answers_does_not_outlast_the_deadline(monkeypatch: pytest.MonkeyPatch) -> None:
    """By a clock of the test's own: all the time but a tenth of a second passes as it is first waited for."""
    clock, test_is_over, answered = [0.0], threading.Event(), []
    receive = Host.receive

    def wait(job: Job, gate: Any) -> None:
        if isinstance(gate, RemoteGate):
            answered.append(test_is_over.wait(HANG))

    def receive_late(self: Host, deadline: float) -> Any:
        if self.name == "slow":
            clock[0] = deadline - 0.1
        try:
            return receive(self, deadline)
        except NoTimeLeft:
            clock[0] = deadline + 1
            raise

    for module in (processes, harness):
        monkeypatch.setattr(module, "time", SimpleNamespace(monotonic=lambda: clock[0]))
    install(monkeypatch, "same", constant_steps(-3.0))
    install(monkeypatch, "slow", wait)
    monkeypatch.setattr(processes, "GRACE", 0)
    monkeypatch.setattr(Host, "begin", lambda self, *task: self.send((task[0], task[1:])))
    monkeypatch.setattr(Host, "receive", receive_late)
    monkeypatch.setattr(measure, "reference_of", lambda case, pairs, deadline: np.zeros((len(pairs), 2), np.float32))
    plan = Plan(CPU, ("same", "slow"), rounds=2, timed=1, deadline=HANG)
    found = measure.measure(replace(FULL, micro_pairs=(4,)), pairs_of((2, 2, 2)), plan)
    assert not answered
    assert [(r.status, r.message) for r in found.records] == [(OK, ""), (FAILED, "no time left")]
    test_is_over.set()


def test_a_round_that_the_deadline_cuts_counts_for_nobody(monkeypatch: pytest.MonkeyPatch) -> None:
    turns: list[str] = []

    def turn(self: Lane, order: Order) -> Any:
        turns.append(self.record.library)
        if len(turns) == 4:
            raise NoTimeLeft("no time left")
        return SimpleNamespace(seconds=1.0, cpu_seconds=1.0)

    monkeypatch.setattr(Lane, "turn", turn)
    case = replace(FULL, pairs_per_step=1, micro_pairs=(1,))
    job = Job(case, pairs_of(*[(1, 1, 1)] * 20), np.zeros((20, 2), np.float32), 1)
    lanes = [Lane(record_of(name, 1), job, apart=True) for name in ("ours", "plain")]
    found = Measured(case, [], [], 1.0, [lane.record for lane in lanes])
    measure.time_lanes(lanes, Plan(CPU, ("ours", "plain"), rounds=3, timed=1), found)
    assert [record.times for record in found.records] == [[1.0], [1.0]]
    assert len(found.tokens) == 1


def test_gate_takes_the_steps_of_each_order_and_ends_when_asked() -> None:
    ours, theirs = Pipe()
    steps: list[int] = []

    def train() -> None:
        gate = RemoteGate(theirs, torch.device("cpu"))
        going = gate.ready(nn.Linear(3, 2))
        while going:
            steps.append(len(steps))
            going = gate.step_done(lambda: dict.fromkeys(CHECKED, float(len(steps))))

    thread = threading.Thread(target=train)
    thread.start()
    assert ours.recv() == "ready"
    ours.send((1, 1))
    first = ours.recv()
    assert (len(steps), len(first.checked), first.trainable) == (2, 2, 4 * 8)
    ours.send((0, 3))
    second = ours.recv()
    assert (len(steps), len(second.checked)) == (5, CHECKED_STEPS)
    ours.send(None)
    thread.join(HANG)
    assert not thread.is_alive() and len(steps) == 5


def test_counting_gate_lets_that_many_steps_pass() -> None:
    gate = CountingGate(2)
    assert [gate.ready(nn.Identity()), gate.step_done(dict), gate.step_done(dict)] == [True, True, False]


def records_of(times: dict[tuple[str, int], tuple[list[float], float]]) -> Iterator[Record]:
    for (contender, micro), (seconds, memory) in times.items():
        yield replace(record_of(contender, micro), times=seconds, extra_mib=memory, errors=[0.0])


def test_targets_compare_fastest_settings_and_equal_ones_round_by_round() -> None:
    records = records_of(
        {
            ("ours", 4): ([1.0, 2.0, 1.0], 10.0),
            ("ours", 2): ([3.0, 3.0, 3.0], 5.0),
            ("trl", 4): ([5.0, 5.0, 5.0], 100.0),
            ("trl", 2): ([2.0, 2.0, 4.0], 20.0),
        }
    )
    found = targets_of(Measured(FULL, [1.0] * 3, [1.0] * 3, 0.5, list(records)))
    # Fastest: our 4 against TRL's 2, then 4 against 4, and 2 against 2.
    assert [target.measured for target in found] == [2.0, 0.5, 5.0, 0.1, pytest.approx(2 / 3), 0.25]
    assert [target.met for target in found] == [True, True, True, True, False, True]


@pytest.mark.slow
def test_run_writes_json_tables_and_a_plot_for_each_sweep(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    sizes = {"length": 8, "vocabulary": 512, "pairs": 1}
    one_point = (SMOKE, sizes, {sweep: (size,) for sweep, size in sizes.items()})
    monkeypatch.setattr(run, "sweeps_of", lambda device, quick: one_point)
    options = ["--quick", "--peers", "plain", "--rounds", "1", "--cases", "smoke", "--threads", "1"]
    path = run.main([*options, "--out", str(tmp_path), "--commit", "abc"])
    result = json.loads(path.read_text())
    assert result["environment"]["commit"] == "abc"
    (case,) = result["cases"]
    assert [(r["contender"], r["micro_pairs"], r["status"]) for r in case["records"]] == [
        ("ours", 4, OK),
        ("plain", 4, OK),
        ("ours", 2, OK),
        ("plain", 2, OK),
    ]
    assert all(len(r["seconds"]) == 1 and r["tokens_per_s"]["median"] > 0 for r in case["records"])
    assert sum(r["profile"] is not None for r in case["records"]) == 2
    assert len(result["targets"]) == 6
    assert {row["sweep"] for row in result["growth"]} == {"length", "vocabulary", "pairs"}
    assert all(row["status"] == OK for row in result["growth"])
    text = path.with_suffix(".md").read_text()
    assert "iwpo_fast" in text and "plain PyTorch" in text and "| attention |" in text
    plots = {name.name.removeprefix(f"{path.stem}-") for name in tmp_path.glob("*.png")}
    assert plots == {"length.png", "vocabulary.png", "pairs.png"}


@pytest.mark.slow
def test_nothing_is_started_after_the_deadline(tmp_path: Path) -> None:
    path = run.main(["--quick", "--peers", "--seconds", "-1", "--out", str(tmp_path)])
    result = json.loads(path.read_text())
    assert result["not_started"] == ["smoke", "smoke LoRA"]
    assert result["cases"] == []
    assert {(row["status"], row["tokens_per_s"]) for row in result["growth"]} == {("not started", None)}
    assert "| pairs | 1 | all |  |  |  | not started: no time left |" in path.with_suffix(".md").read_text()
