"""The KL on what the policy draws itself: which completions, how much, how often, and that a run with it resumes."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
import yaml
from jobs import run_job
from killed_runs import kill_during_training, run_killed
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM

from iwpo_fast.cli import main
from iwpo_fast.config import (
    CheckpointConfig,
    LogConfig,
    LoraConfig,
    ModelConfig,
    ObjectiveConfig,
    OptimConfig,
    SampledKLConfig,
    TinyConfig,
    TrainConfig,
)
from iwpo_fast.recipe_shelf import SHELF
from iwpo_fast.training import Callback, Run, train

TINY = TinyConfig(vocab_size=320, hidden_size=32, layers=2, heads=2)
ASKED = SampledKLConfig(coefficient=0.5, every=3, samples=6, per_step=4, max_new_tokens=6)
FAST = OptimConfig(lr=1e-2, pairs_per_step=8, max_steps=8, epochs=4)


class Watch(Callback):
    """Keeps what was drawn and the policy's weights after every step."""

    def __init__(self) -> None:
        self.drawn: dict[int, list[list[int]]] = {}
        self.weights: dict[int, dict[str, torch.Tensor]] = {}
        self.lines: dict[int, dict[str, float]] = {}
        self.run: Run | None = None

    def on_begin(self, run: Run) -> None:
        self._keep(run)

    def on_step(self, run: Run, metrics) -> None:
        self._keep(run)
        self.lines[run.state.step] = dict(metrics)

    def _keep(self, run: Run) -> None:
        named = run.job.policy.trainable_parameters().items()
        self.weights[run.state.step] = {name: p.detach().clone() for name, p in named}
        self.drawn[run.state.step] = run.state.drawn
        self.run = run


@pytest.fixture
def watched(config) -> Callable[..., Watch]:
    def go(**parts: object) -> Watch:
        watch = Watch()
        train(config(**({"sampled_kl": ASKED, "optim": FAST} | parts)), callbacks=[watch])
        return watch

    return go


def put(run: Run, weights: dict[str, torch.Tensor]) -> None:
    with torch.no_grad():
        for name, parameter in run.job.policy.trainable_parameters().items():
            parameter.copy_(weights[name])


def prompts_of(run: Run, step: int) -> list[list[int]]:
    drawn_for = run.job.sampled_kl._prompts_of(step)
    return [drawn_for[row].tolist() for row in range(len(drawn_for))]


def naive_kls(run: Run, prompts: list[list[int]], completions: list[list[int]]) -> list[float]:
    """Σ_t Σ_v π_v (log π_v - log π_ref,v) of each completion, one at a time, from all logits in float64."""
    kl = run.job.sampled_kl
    found = []
    with torch.no_grad(), kl.policy.plain_attention() as model, kl.reference.policy.plain_attention() as reference:
        for prompt, completion in zip(prompts, completions, strict=True):
            ids = torch.tensor([[*prompt, *completion]])
            logits = (one(input_ids=ids).logits[0, len(prompt) - 1 : -1] for one in (model, reference))
            p, q = (values.double().log_softmax(-1) for values in logits)
            found.append(float((p.exp() * (p - q)).sum()))
    return found


def test_a_draw_is_kept_until_the_next_and_steps_read_it_in_turn(watched) -> None:
    watch = watched()
    drawn = watch.drawn
    assert drawn[0] == [] and drawn[1] is drawn[2] is drawn[3] and drawn[4] is drawn[5] is drawn[6]
    assert drawn[3] is not drawn[4] and all(len(drawn[step]) == ASKED.samples for step in range(1, 9))
    kl = watch.run.job.sampled_kl
    seen = []
    for step in range(3):
        state = dataclasses.replace(watch.run.state, step=step, drawn=drawn[1])
        batches = list(kl._batches(state))
        tokens = [part.tolist() for batch in batches for part in batch.labels.split(batch.segments.diff().tolist())]
        seen.append(sorted(drawn[1].index(completion) for completion in tokens))
    assert [len(rows) for rows in seen] == [4, 4, 4]
    # Equal completions stand for one another, so that rows are compared by what they hold.
    expected = [[0, 1, 2, 3], [4, 5, 0, 1], [2, 3, 4, 5]]
    assert seen == [sorted(drawn[1].index(drawn[1][row]) for row in rows) for rows in expected]


@pytest.mark.slow
def test_each_prompt_is_answered_before_any_is_answered_again(watched) -> None:
    run = watched().run
    kl = run.job.sampled_kl
    there = len(kl.prompts)
    assert there == len({tuple(kl.prompts[row].tolist()) for row in range(there)})
    steps = range(0, 3 * (there // ASKED.samples + 1), 3)
    answered = [tuple(prompt) for step in steps for prompt in prompts_of(run, step)][:there]
    assert len(set(answered)) == there


@pytest.mark.slow
@pytest.mark.parametrize("lora", [None, LoraConfig(rank=2)], ids=["all weights", "adapter"])
def test_the_metric_is_the_naive_kl_of_what_the_policy_drew(watched, lora) -> None:
    watch = watched(model=ModelConfig(tiny=TINY, lora=lora), log=LogConfig(every=1))
    run, completions, prompts = watch.run, watch.drawn[6], prompts_of(watch.run, 3)
    assert watch.lines[1]["sampled_kl"] == pytest.approx(0, abs=1e-9)
    put(run, watch.weights[5])
    rows = [2, 3, 4, 5]  # of the third step after a draw
    state = dataclasses.replace(run.state, step=5, drawn=completions)
    kls = torch.cat([kl for _, kl in run.job.sampled_kl.losses(state)])
    assert watch.lines[6]["sampled_kl"] == pytest.approx(float(kls.mean()), rel=1e-6)
    if lora is None:
        expected = naive_kls(run, [prompts[row] for row in rows], [completions[row] for row in rows])
        assert sorted(kls.tolist()) == pytest.approx(sorted(expected), rel=1e-4, abs=1e-6)
        assert min(expected) > 1e-4


@pytest.mark.slow
def test_completions_are_those_of_the_policy_as_it_is(watched) -> None:
    """Drawn anew from the weights of that step, they are the same; from others, they are not."""
    watch = watched(optim=dataclasses.replace(FAST, lr=5e-2))
    run = watch.run
    put(run, watch.weights[3])
    state = dataclasses.replace(run.state, step=3)
    run.job.sampled_kl.draw_if_due(state)
    assert state.drawn == watch.drawn[4]
    put(run, watch.weights[0])
    run.job.sampled_kl.draw_if_due(state)
    assert state.drawn != watch.drawn[4]


@pytest.mark.slow
def test_the_gradient_of_the_loss_is_that_of_differences(watched) -> None:
    watch = watched(log=LogConfig(every=1))
    run = watch.run
    kl = run.job.sampled_kl
    run.job.policy.eval()
    state = dataclasses.replace(run.state, step=7, drawn=watch.drawn[8])
    weight = run.job.policy.causal_lm.model.layers[0].self_attn.q_proj.weight
    direction = torch.randn(weight.shape, generator=torch.Generator().manual_seed(0))

    def loss() -> float:
        with torch.no_grad():
            return sum(float(part) for part, _ in kl.losses(state))

    weight.grad = None
    for part, _ in kl.losses(state):
        part.backward()
    expected = float((weight.grad * direction).sum())
    h = 1e-2
    with torch.no_grad():
        weight += h * direction
        above = loss()
        weight -= 2 * h * direction
        below = loss()
    assert expected == pytest.approx((above - below) / (2 * h), rel=0.05)


@pytest.mark.slow
def test_micro_batches_change_nothing(watched) -> None:
    watch = watched()
    kl, state = watch.run.job.sampled_kl, dataclasses.replace(watch.run.state, step=7, drawn=watch.drawn[8])
    watch.run.job.policy.eval()
    whole, parts = kl, dataclasses.replace(kl, tokens_per_batch=20)
    (one,), several = list(whole.losses(state)), list(parts.losses(state))
    assert len(several) > 1
    torch.testing.assert_close(sum(loss for loss, _ in several), one[0])


@pytest.mark.slow
def test_processes_draw_and_read_shares_of_the_same(watched, monkeypatch) -> None:
    watch = watched()
    kl, state = watch.run.job.sampled_kl, dataclasses.replace(watch.run.state, step=6, drawn=[])
    alone = dataclasses.replace(kl, tokens_per_batch=30)
    alone.draw_if_due(state)
    expected, parts = state.drawn, []
    of_ranks = [dataclasses.replace(alone, world=dataclasses.replace(kl.world, rank=rank, size=2)) for rank in range(2)]
    world = type(kl.world)
    monkeypatch.setattr(world, "gathered", lambda self, value: parts.append(value) or list(parts))
    with pytest.raises(KeyError):  # the first process knows its own share alone
        of_ranks[0].draw_if_due(dataclasses.replace(state, drawn=[]))
    of_ranks[1].draw_if_due(state)
    assert state.drawn == expected and all(parts)
    shares = [torch.cat([kls for _, kls in rank.losses(state)]) for rank in of_ranks]
    whole = torch.cat([kls for _, kls in alone.losses(state)])
    torch.testing.assert_close(torch.cat(shares).sort().values, whole.sort().values)


@pytest.mark.slow
def test_two_processes_train_as_one_does(config, tmp_path) -> None:
    parts = {"sampled_kl": dataclasses.replace(ASKED, every=8, samples=16), "optim": FAST, "log": LogConfig(every=1)}
    alone, together = (config(**parts, output_dir=str(tmp_path / name)) for name in ("alone", "together"))
    train(alone)
    done, _ = run_job(together, tmp_path)
    assert [one.exitcode for one in done] == [0, 0], done[0].said + done[1].said
    one, two = ([line["sampled_kl"] for line in lines(run) if "sampled_kl" in line] for run in (alone, together))
    assert two == pytest.approx(one, rel=1e-3, abs=1e-9) and one[-1] > 0.01


@pytest.mark.slow
def test_it_holds_the_policy_to_the_reference(watched, tmp_path) -> None:
    loose = watched(sampled_kl=dataclasses.replace(ASKED, coefficient=1e-6), output_dir=str(tmp_path / "loose")).lines
    tight = watched(sampled_kl=dataclasses.replace(ASKED, coefficient=10.0), output_dir=str(tmp_path / "tight")).lines
    assert tight[8]["sampled_kl"] < 0.3 * loose[8]["sampled_kl"]
    line = tight[8]
    assert line["loss"] == pytest.approx(line["loss/unweighted"] + 10.0 * line["sampled_kl"], rel=1e-6)


@pytest.mark.slow
def test_a_run_without_it_is_what_it_was(config, tmp_path) -> None:
    record = dataclasses.asdict(config())
    assert record["sampled_kl"] is None
    train(config())
    state = json.loads((tmp_path / "run/checkpoints/step-00000008/state.json").read_text())
    assert "drawn" not in json.dumps(state)
    assert "sampled_kl" not in (tmp_path / "run/run.json").read_text()
    assert "sampled_kl" not in (tmp_path / "run/metrics.jsonl").read_text()


def lines(config: TrainConfig) -> list[dict]:
    found = map(json.loads, (Path(config.output_dir) / "metrics.jsonl").read_text().splitlines())
    return [{name: value for name, value in line.items() if not name.startswith("perf/")} for line in found]


@pytest.mark.slow
@pytest.mark.parametrize("lora", [None, LoraConfig(rank=2, dropout=0.1)], ids=["all weights", "adapter"])
@pytest.mark.parametrize("every", [3, 4], ids=["at a draw", "between draws"])
def test_a_killed_run_resumes_bitwise(config, tmp_path, lora, every) -> None:
    parts = {
        "sampled_kl": ASKED,
        "model": ModelConfig(tiny=TINY, lora=lora),
        "optim": FAST,
        "log": LogConfig(every=1, eval_every=2),
        "checkpoint": CheckpointConfig(every=every),
    }
    whole = config(**parts, output_dir=str(tmp_path / "whole"))
    part = config(**parts, output_dir=str(tmp_path / "part"))
    train(whole)
    run_killed(part, kill_during_training, tmp_path)
    train(part)
    assert lines(part) == lines(whole)
    name = "checkpoints/step-00000008/weights.safetensors"
    one, other = (load_file(tmp_path / run / name) for run in ("whole", "part"))
    assert one.keys() == other.keys() and all(one[key].equal(other[key]) for key in one)


def recipe_of(settings: TrainConfig, folder: Path) -> list[str]:
    recipe = folder / "recipe.yaml"
    recipe.write_text(yaml.safe_dump(json.loads(json.dumps(dataclasses.asdict(settings)))))
    return ["train", "--config", str(recipe)]


@pytest.mark.slow
def test_prompts_come_from_a_file_of_their_own_and_a_resumed_run_knows_it(config, tmp_path, capsys) -> None:
    path = tmp_path / "prompts.jsonl"
    rows = [{"prompt": f"say: {word}\n", "topic": word} for word in ("warm", "cold", "calm", "warm")]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    asked = dataclasses.replace(ASKED, prompts=str(path))
    watch = Watch()
    settings = config(sampled_kl=asked, objective=ObjectiveConfig("spo_pairs"))
    train(settings, callbacks=[watch])
    kl, tokenizer = watch.run.job.sampled_kl, watch.run.tokenizer
    texts = [tokenizer.decode(kl.prompts[row]) for row in range(len(kl.prompts))]
    assert texts == ["say: warm\n", "say: cold\n", "say: calm\n"]
    assert "for prompts of" in capsys.readouterr().out
    assert "spo_pairs, and 0.5 KL on completions of the policy's own" in (tmp_path / "run/model/README.md").read_text()
    path.write_text(json.dumps(rows[0]) + "\n")
    (tmp_path / "run/summary.json").unlink()
    assert main(recipe_of(settings, tmp_path)) == 2
    assert "the prompts of sampled_kl has changed since" in capsys.readouterr().err


@pytest.mark.slow
def test_another_model_is_the_reference_of_an_objective_that_reads_none(config, tmp_path) -> None:
    train(config(output_dir=str(tmp_path / "other"), optim=dataclasses.replace(FAST, lr=1e-4)))
    model = ModelConfig(path=str(tmp_path / "other/model"), reference=str(tmp_path / "other/model"))
    watch = Watch()
    train(config(model=model, sampled_kl=ASKED, objective=ObjectiveConfig("spo_pairs")), callbacks=[watch])
    kl = watch.run.job.sampled_kl
    theirs = AutoModelForCausalLM.from_pretrained(tmp_path / "other/model").state_dict()
    mine = kl.reference.policy.causal_lm.state_dict()
    assert all(mine[name].equal(theirs[name]) for name in theirs)
    assert watch.lines[1]["sampled_kl"] == pytest.approx(0, abs=1e-9) and watch.lines[8]["sampled_kl"] > 0
    assert watch.run.job.reference == kl.reference.policy.fingerprint


@pytest.mark.parametrize(
    ("flags", "sentence"),
    [
        (["--sampled_kl.coefficient", "0"], "sampled_kl.coefficient is 0.0: it must be positive"),
        (["--sampled_kl.per_step", "7"], "sampled_kl.per_step is 7 and sampled_kl.samples is 6, of which a step"),
        (
            ["--sampled_kl.samples", "13"],
            "sampled_kl.samples is 13, and the 3 steps of sampled_kl.every read 12 of them",
        ),
        (["--sampled_kl.max_new_tokens", "1024"], "which leaves no token for a prompt: lower the first"),
        (["--reference_sync.steps", "2"], "sampled_kl and reference_sync are set"),
        (["--shard_over", "all"], "shard_over is all and sampled_kl is set, which reads whole distributions"),
        (["--context_parallel", "2"], "context_parallel is 2 and sampled_kl is set"),
        (["--sampled_kl.prompts", "nowhere.jsonl"], "sampled_kl.prompts nowhere.jsonl"),
    ],
)
def test_what_cannot_be_is_one_sentence(config, tmp_path, capsys, flags, sentence) -> None:
    settings = config(sampled_kl=ASKED, model=ModelConfig(tiny=TINY))
    assert main([*recipe_of(settings, tmp_path), *flags]) == 2
    said = capsys.readouterr().err
    assert sentence in said and said.strip().count("\n") == 0


def test_prompts_that_leave_no_room_are_one_sentence(config, tmp_path, capsys) -> None:
    settings = config(sampled_kl=dataclasses.replace(ASKED, max_new_tokens=30), model=ModelConfig(tiny=TINY))
    flags = ["--data.max_length", "33", "--data.truncation", "drop"]
    assert main([*recipe_of(settings, tmp_path), *flags]) == 2
    assert "No prompt leaves room for the 30 tokens of sampled_kl.max_new_tokens" in capsys.readouterr().err


@pytest.mark.slow
def test_the_recipe_runs_in_miniature(tmp_path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    rows = [{"prompt": f"say: {i}\n", "candidates": [f"{i} {k}" for k in range(4)]} for i in range(12)]
    path = tmp_path / "rows.jsonl"
    path.write_text("".join(json.dumps(row | {"candidate_scores": [3, 1, 2, 0]}) + "\n" for row in rows))
    settings = {
        **{"data.path": str(path), "data.max_length": 96, "data.as_chat": "false", "data.eval_fraction": 0.2},
        **{"model.path": "tiny", "model.gradient_checkpointing": "none", "model.lora.rank": 2, "device": "cpu"},
        **{"model.tiny.vocab_size": 320, "model.tiny.hidden_size": 32, "model.tiny.layers": 1, "model.tiny.heads": 2},
        **{"sampled_kl.every": 2, "sampled_kl.samples": 4, "sampled_kl.per_step": 2, "sampled_kl.max_new_tokens": 5},
        **{"optim.max_steps": 3, "optim.pairs_per_step": 8, "optim.epochs": 2, "log.every": 1, "optim.lr": 1e-2},
    }
    flags = [text for name, value in settings.items() for text in (f"--{name}", str(value))]
    for name in ("spo_pairs", "spo_ranked"):
        more = ["--objective.name", name, "--output_dir", name]
        assert main(["train", "--config", str(SHELF / "spo_ultrafeedback.yaml"), *flags, *more]) == 0
        steps = [line for line in map(json.loads, (tmp_path / name / "metrics.jsonl").open()) if "sampled_kl" in line]
        assert len(steps) == 3 and steps[-1]["sampled_kl"] > 0
        assert (tmp_path / name / "model/model.safetensors").exists()


def test_the_recipe_is_planned_without_data_and_model(tmp_path, capsys) -> None:
    flags = ["--dry_run", "true", "--plan.on", "h100", "--plan.gpus", "8", "--output_dir", str(tmp_path / "run")]
    assert main(["train", "--config", str(SHELF / "spo_ultrafeedback.yaml"), *flags]) == 0
    said = capsys.readouterr().out
    assert "distributions" in said and "without what sampled_kl draws and compares" in said
