"""Rewards by heads on a fine-tuned model: who has seen what, what it learns, and a call that goes on with another."""

from __future__ import annotations

import dataclasses
import json
import random
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from pipeline_cases import DATA, STAGES, TINY, WORDS, results, stages_done, toy_config, write_jsonl
from safetensors.numpy import load_file

from iwpo_fast.checksums import Damaged
from iwpo_fast.cli import main
from iwpo_fast.config import ClusterConfig, LoraConfig, ModelConfig, OptimConfig, RewardConfig, TuningConfig
from iwpo_fast.data.pairs import CandidateTokens, Pairs
from iwpo_fast.data.ragged import Ragged
from iwpo_fast.files import save_tensors
from iwpo_fast.models import Policy, load_policy
from iwpo_fast.models.tiny import train_tokenizer
from iwpo_fast.pipeline.job import PipelineJob
from iwpo_fast.rewards import PairFeatures, RewardScores, preference_choice, report_lines, score_pairs, tuning
from iwpo_fast.rewards.cross_fit import fold_of_prompts
from iwpo_fast.rewards.features import pair_features
from iwpo_fast.rewards.fold_adapters import put_adapter, save_adapter
from iwpo_fast.rewards.tuning import tuned_rewards
from iwpo_fast.world import World

CPU = torch.device("cpu")
SETTINGS = RewardConfig(folds=2, ensemble=2, ridge=1e-3, residual=1e-2)
OPTIM = OptimConfig(lr=1e-3, max_steps=3, pairs_per_step=8, tokens_per_batch=200)


def new_policy() -> Policy:
    tokenizer = train_tokenizer(["The quick brown fox jumps over the lazy dog."], TINY.vocab_size)
    return load_policy(ModelConfig(tiny=TINY, lora=LoraConfig(rank=4)), tokenizer, World(0, 1, CPU), seed=0)


@pytest.fixture(scope="module")
def pairs() -> Pairs:
    """Of random tokens, with prompts and completions of their own."""
    draw = np.random.default_rng(0)
    parts = ([draw.integers(4, 260, draw.integers(2, 9)) for _ in range(40)] for _ in range(3))
    prompt, chosen, rejected = (Ragged.from_rows(part) for part in parts)
    return Pairs(prompt=prompt, chosen=chosen, rejected=rejected, weight=np.ones(40))


def swapped(pairs: Pairs, where: np.ndarray) -> Pairs:
    def joined(first: Ragged, second: Ragged) -> Ragged:
        return Ragged.from_rows([(second if where[i] else first)[i] for i in range(len(where))])

    sides = {"chosen": joined(pairs.chosen, pairs.rejected), "rejected": joined(pairs.rejected, pairs.chosen)}
    return dataclasses.replace(pairs, **sides)


def with_candidates(pairs: Pairs) -> Pairs:
    """With a third response to every other prompt, which is in no pair."""
    draw = np.random.default_rng(1)
    of = np.arange(0, len(pairs), 2)
    texts = Ragged.from_rows([draw.integers(4, 260, draw.integers(2, 9)) for _ in of])
    return dataclasses.replace(pairs, candidates=CandidateTokens(texts, of, np.zeros(len(of), dtype=np.int64)))


def cycles(prompts: int = 40) -> Pairs:
    """Three responses of random tokens to each prompt, of which each is preferred to the next."""
    draw = np.random.default_rng(0)
    texts = [[draw.integers(4, 260, draw.integers(3, 9)) for _ in range(3)] for _ in range(prompts)]
    asked = [draw.integers(4, 260, 5) for _ in range(prompts)]
    return Pairs(
        prompt=Ragged.from_rows([asked[i] for i in range(prompts) for _ in range(3)]),
        chosen=Ragged.from_rows([texts[i][j] for i in range(prompts) for j in range(3)]),
        rejected=Ragged.from_rows([texts[i][(j + 1) % 3] for i in range(prompts) for j in range(3)]),
        weight=np.ones(3 * prompts),
    )


def features_of(pairs: Pairs, folder: Path) -> PairFeatures:
    policy = new_policy()
    world = World(0, 1, CPU)
    budget = 200
    return pair_features(policy, pairs, world, folder, tokens_per_batch=budget)


def score(
    pairs: Pairs, folder: Path, rewards: RewardConfig = SETTINGS, *, tuned: bool = True, **options
) -> tuple[RewardScores, PairFeatures]:
    """In three clusters, by the tuned model unless told otherwise; options change the optimiser."""
    features = features_of(pairs, folder)
    tuning = TuningConfig(optim=dataclasses.replace(OPTIM, **options)) if tuned else None
    settings = dataclasses.replace(rewards, tuning=tuning)
    tune = partial(
        tuned_rewards, features=features, pairs=pairs, settings=settings, new_policy=new_policy, folder=folder / "folds"
    )
    cluster = np.arange(len(features.prompt)) % 3
    scores = score_pairs(features, cluster, settings, seed=0, tune=tune if tuned else None)
    return scores, features


@pytest.mark.slow
@pytest.mark.parametrize("likelihood", [False, True])
@pytest.mark.parametrize("heads", ["linear", "mlp", "gpm"])
def test_an_adapter_that_learns_nothing_gives_the_rewards_of_the_frozen_model(
    pairs, tmp_path, heads, likelihood
) -> None:
    rewards = dataclasses.replace(SETTINGS, heads=heads, likelihood=likelihood)
    given = with_candidates(pairs)
    frozen = score(given, tmp_path / "frozen", rewards, tuned=False)[0].raw
    still = score(given, tmp_path / "still", rewards, lr=1e-12)[0].raw
    moved = score(given, tmp_path / "moved", rewards)[0].raw
    np.testing.assert_allclose(still, frozen, atol=2e-3 * frozen.std())  # features of the frozen model are float16
    assert np.abs(moved - frozen).max() > 0.1 * frozen.std()


@pytest.mark.slow
@pytest.mark.parametrize("heads", ["linear", "gpm"])
def test_no_prompt_is_scored_by_a_model_that_saw_its_labels(pairs, tmp_path, monkeypatch, heads) -> None:
    monkeypatch.setattr(preference_choice, "DECAYS", (1.0,))  # the choice of decay and rounds depends on all labels
    monkeypatch.setattr(preference_choice, "MOST_ROUNDS", 1)
    rewards = dataclasses.replace(SETTINGS, heads=heads)
    before, features = score(pairs, tmp_path / "before", rewards)
    fold = fold_of_prompts(features.prompt_keys, 2, seed=0)
    after, other = score(swapped(pairs, fold == 1), tmp_path / "after", rewards)
    chosen = before.raw[features.table.chosen]
    same_texts = np.where((fold == 1)[:, None], after.raw[other.table.rejected], after.raw[other.table.chosen])
    np.testing.assert_allclose(same_texts[fold == 1], chosen[fold == 1], rtol=1e-3, atol=1e-4)
    assert np.abs(same_texts - chosen)[fold == 0].max() > 0.1


@pytest.mark.slow
def test_rewards_do_not_depend_on_how_steps_are_cut_into_batches(pairs, tmp_path) -> None:
    whole = score(pairs, tmp_path / "whole", tokens_per_batch=10_000)[0].raw
    cut = score(pairs, tmp_path / "cut", tokens_per_batch=40)[0].raw
    np.testing.assert_allclose(cut, whole, rtol=1e-3, atol=1e-3)
    np.testing.assert_array_equal(score(pairs, tmp_path / "again", tokens_per_batch=40)[0].raw, cut)


@pytest.mark.slow
def test_rewards_that_are_not_finite_are_refused(pairs, tmp_path) -> None:
    with pytest.raises(ValueError, match=r"is not finite: lower rewards\.tuning\.optim\.lr\."):
        score(pairs, tmp_path, lr=1e30, max_grad_norm=None)
    assert not list((tmp_path / "folds").glob("*"))


def first_words(prompts: int) -> list[dict[str, str]]:
    """The chosen completion starts with the prompt's last word, the rejected one with another; they end alike."""
    draw = random.Random(0)
    rows = []
    for i in range(prompts):
        right, wrong = draw.sample(WORDS, 2)
        end = " ".join(draw.choices(WORDS, k=2))
        texts = {"chosen": f"{right} {end}", "rejected": f"{wrong} {end}"}
        rows.append({"prompt": f"repeat {i % 7} {right}\n"} | texts)
    return rows


def held_out_accuracy() -> float:
    return json.loads(Path("run/rewards/report.json").read_text())["total"]["accuracy"]


@pytest.mark.slow
def test_tuning_learns_what_heads_on_frozen_features_do_not(place) -> None:
    write_jsonl(DATA, first_words(200))
    rewards = RewardConfig(folds=2, ensemble=1)
    config = toy_config(rewards=rewards, clusters=ClusterConfig(count=1, backend="sklearn"))
    for stage in STAGES[:4]:
        stages_done(config, only=stage)
    frozen = held_out_accuracy()
    config.rewards.tuning = TuningConfig(optim=OptimConfig(lr=3e-3, epochs=10, pairs_per_step=16))
    stages_done(config, only="reward")
    assert held_out_accuracy() > frozen + 0.1


@pytest.mark.slow
def test_tuning_lowers_the_loss_of_cycles_below_what_any_reward_reaches(tmp_path) -> None:
    rewards = RewardConfig(heads="gpm", folds=1, ensemble=1, ridge=1e-3, residual=None, likelihood=False)
    losses = []
    for name, lr in (("still", 1e-12), ("moved", 1e-3)):
        found, _ = score(cycles(), tmp_path / name, rewards, max_steps=None, epochs=6, lr=lr)
        scores = load_file(tmp_path / name / "folds/fold-0.safetensors")["scores"][:, 0]
        losses.append(np.logaddexp(0, -scores).mean())
        share = found.report["penalties"]["preferences"]["tuned_pair_accuracy"]
        assert share == (scores > 0).mean()
        assert any(f"after tuning in {share:.1%}" in line for line in report_lines(found.report))
    assert losses[1] < losses[0] - 0.05
    assert losses[1] < np.log(2) - 0.2  # gaps of rewards sum to 0 on a cycle, so that their losses have a mean of log 2


def cycles_by_first_word(prompts: int) -> list[dict[str, str]]:
    """Three kinds of completions, of which each is preferred to the next; the first word says which kind one is."""
    draw = random.Random(0)
    rows = []
    for i in range(prompts):
        kinds = [[draw.choice(WORDS[3 * kind : 3 * kind + 3]), *draw.choices(WORDS, k=3)] for kind in range(3)]
        texts = [" ".join(words) for words in kinds]
        rows += [{"prompt": f"say {i}\n", "chosen": texts[j], "rejected": texts[(j + 1) % 3]} for j in range(3)]
    return rows


@pytest.mark.slow
def test_tuned_embeddings_are_right_in_held_out_cycles_where_frozen_ones_are_less_often(place) -> None:
    write_jsonl(DATA, cycles_by_first_word(80))
    tuning = TuningConfig(optim=OptimConfig(lr=3e-3, epochs=10, pairs_per_step=16))
    rewards = RewardConfig(heads="gpm", folds=2, ensemble=1, tuning=tuning)
    config = toy_config(rewards=rewards, clusters=ClusterConfig(count=1, backend="sklearn"))
    for stage in STAGES[:4]:
        stages_done(config, only=stage)
    found = json.loads(Path("run/rewards/report.json").read_text())["penalties"]["preferences"]
    assert found["tuned_pair_accuracy"] > found["pair_accuracy"] + 0.1
    assert held_out_accuracy() < 0.67  # of rewards, which no response has alone in a circle


@pytest.mark.slow
@pytest.mark.parametrize("heads", ["linear", "gpm"])
def test_a_killed_tuning_goes_on_behind_its_last_fold(copied, monkeypatch, heads) -> None:
    config = toy_config(rewards=RewardConfig(heads=heads, folds=3, ensemble=2, tuning=TuningConfig(optim=OPTIM)))
    loaded: list[int] = []
    new_policy = PipelineJob.new_policy

    def killed_at_the_third(self, lora) -> Policy:
        loaded.append(len(loaded))
        if loaded == [0, 1, 2]:
            raise KeyboardInterrupt
        return new_policy(self, lora)

    monkeypatch.setattr(PipelineJob, "new_policy", killed_at_the_third)
    with pytest.raises(KeyboardInterrupt):
        stages_done(config)
    assert sorted(path.name for path in Path("run/rewards/folds").iterdir()) == [
        "adapters",
        "fold-0.safetensors",
        "fold-1.safetensors",
    ]
    assert stages_done(config) == STAGES[3:]
    assert len(loaded) == 5  # the last for the record of the reward model
    assert not Path("run/rewards/folds").exists()
    after = results(copied)
    assert stages_done(config, only="reward") == ["reward"]
    assert len(loaded) == 9
    assert results(copied) == after and "rewards/reward_model/adapters/fold-2/adapter_model.safetensors" in after


REFUSED = [
    (["--rewards.source", "columns", "--rewards.tuning.lora.rank", "4"], "it goes with the source features"),
    (["--rewards.overlap", "0.1", "--rewards.tuning.lora.rank", "4"], "set rewards.overlap to 0 or leave"),
    (
        ["--rewards.heads", "dprm", "--rewards.tuning.lora.rank", "4"],
        "rewards.heads is dprm, which learns from grades",
    ),
    (["--rewards.tuning.lora.rank", "0"], "rewards.tuning.lora.rank is 0: it must be positive."),
    (["--rewards.tuning.optim.lr", "0"], "rewards.tuning.optim.lr is 0.0: it must be positive and finite."),
]


@pytest.mark.slow
@pytest.mark.parametrize(("flags", "sentence"), REFUSED, ids=[" ".join(flags) for flags, _ in REFUSED])
def test_settings_that_cannot_be_are_one_sentence(place, capsys, flags, sentence) -> None:
    pytest.importorskip("jsonargparse", reason="the command iwpo needs it")
    write_jsonl(DATA, first_words(4))
    assert main(["run", "--data.path", DATA, "--output_dir", "run", "--device", "cpu", *flags]) == 2
    said = capsys.readouterr().err
    assert sentence in said
    assert said.startswith("iwpo: error: ") and said.count("\n") == 1


@pytest.mark.slow
def test_the_calibrated_rewards_are_those_of_the_tuned_model(copied) -> None:
    stages_done(toy_config(rewards=SETTINGS), only="reward")
    frozen = load_file("run/rewards/rewards.safetensors")
    config = toy_config(rewards=dataclasses.replace(SETTINGS, tuning=TuningConfig(optim=OPTIM)))
    assert stages_done(config) == STAGES[3:]
    tuned = load_file("run/rewards/rewards.safetensors")
    assert tuned.keys() == frozen.keys()
    assert all(tuned[name].shape == frozen[name].shape for name in frozen)
    assert np.corrcoef(tuned["raw"].mean(1), frozen["raw"].mean(1))[0, 1] < 0.999


def test_a_damaged_fold_is_tuned_again(tmp_path, caplog) -> None:
    path, adapter = tmp_path / "fold-0.safetensors", tmp_path / "adapter"
    assert tuning._kept(path, adapter) is None
    save_tensors(path, {"rewards": torch.arange(6.0).reshape(3, 2), "slope": torch.ones(2)})
    save_adapter(new_policy(), adapter)
    assert tuning._kept(path, adapter)["rewards"].tolist() == [[0, 1], [2, 3], [4, 5]] and not caplog.text
    flip_a_bit(path)
    assert tuning._kept(path, adapter) is None and "are damaged: tuning this fold again" in caplog.text


def test_an_adapter_comes_back_and_one_of_another_shape_does_not(tmp_path) -> None:
    policy = new_policy()
    with torch.no_grad():
        for values in policy.trainable_parameters().values():
            values.normal_()
    kept = {name: values.clone() for name, values in policy.trainable_parameters().items()}
    save_adapter(policy, tmp_path / "one")
    save_adapter(policy, tmp_path / "same")
    assert {p.name: p.read_bytes() for p in (tmp_path / "one").iterdir()} == {
        p.name: p.read_bytes() for p in (tmp_path / "same").iterdir()
    }
    other = new_policy()
    put_adapter(other, tmp_path / "one")
    assert all(torch.equal(values, kept[name]) for name, values in other.trainable_parameters().items())
    few = dict(list(load_file(tmp_path / "one/adapter_model.safetensors").items())[:-1])
    save_tensors(tmp_path / "few/adapter_model.safetensors", {n: torch.from_numpy(v) for n, v in few.items()})
    with pytest.raises(Damaged):
        put_adapter(other, tmp_path / "few")


@pytest.mark.parametrize("lost", ["adapter", "weights", "slope"])
def test_a_fold_without_its_adapter_is_tuned_again(tmp_path, caplog, lost) -> None:
    """As an earlier version left it, without slope and adapter, or damaged since."""
    path, adapter = tmp_path / "fold-0.safetensors", tmp_path / "adapter"
    kept = {"rewards": torch.ones(3, 2), "slope": torch.ones(2)}
    save_tensors(path, {name: values for name, values in kept.items() if name != lost})
    if lost != "adapter":
        save_adapter(new_policy(), adapter)
    if lost == "weights":
        flip_a_bit(adapter / "adapter_model.safetensors")
    assert tuning._kept(path, adapter) is None
    assert "is damaged, or none was kept: tuning this fold again" in caplog.text


def flip_a_bit(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[-2] ^= 1
    path.write_bytes(content)
