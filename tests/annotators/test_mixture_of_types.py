"""A saved mixture: its policies share a base, its answers are theirs, as often as it says."""

from __future__ import annotations

import io
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from annotator_votes import write_votes
from trained_models import save_base
from training_on_types import config_in

from iwpo_fast.annotators.gains import Comparison
from iwpo_fast.annotators.mixture import Mixture
from iwpo_fast.config import LoraConfig, ModelConfig, OptimConfig, TrainConfig, TypesConfig
from iwpo_fast.evaluation.sampling import sample_completions
from iwpo_fast.files import load_record, save_record
from iwpo_fast.models.pretrained import Source
from iwpo_fast.models.trained import base_of, read_adapter, read_tokenizer
from iwpo_fast.training import train

pytestmark = pytest.mark.slow
ALONE = {"max_new_tokens": 4, "seed": 3}


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> TrainConfig:
    """Adapters of two types on a model on disk, and their mixture."""
    folder = tmp_path_factory.mktemp("types")
    save_base(folder / "base")
    settings = config_in(
        folder,
        write_votes(folder / "votes.jsonl"),
        model=ModelConfig(path=str(folder / "base"), lora=LoraConfig(rank=2)),
        optim=OptimConfig(lr=3e-2, pairs_per_step=8, max_steps=6, epochs=4),
        types=TypesConfig(rounds=1, mixture_prompts=6, mixture_tokens=3, regret_weights=[1.0, 3.0]),
    )
    train(settings)
    return settings


def test_adapters_on_one_base_are_the_adapters_alone(trained) -> None:
    mixture = Mixture.load(trained.output_dir)
    policies = mixture.policies(torch.device("cpu"), torch.float32)
    assert policies[0].model is policies[1].model
    ids, logits = torch.tensor([[5, 9, 30, 7]]), []
    for number, policy in enumerate(policies):
        source = Source(str(mixture.folder / f"type-{number}"), "model")
        alone = read_adapter(source, base_of(source), torch.float32)
        with policy.in_use(), torch.no_grad():
            logits.append(policy.model(ids).logits)
            assert torch.allclose(logits[-1], alone(ids).logits, atol=1e-5)
    assert not torch.allclose(*logits, atol=1e-3)


def test_answers_are_those_of_the_policies_that_are_drawn(trained) -> None:
    mixture, prompts = Mixture.load(trained.output_dir), [f"say {i}: " for i in range(8)]
    answers, of = mixture.generate(prompts, **ALONE), mixture.drawn_types(8, 3)
    assert answers == mixture.generate(prompts, **ALONE)
    for number in np.unique(of):
        source = Source(str(mixture.folder / f"type-{number}"), "model")
        model, places = read_adapter(source, base_of(source), torch.float32), np.flatnonzero(of == number)
        own = sample_completions(model, read_tokenizer(source), [prompts[i] for i in places], **ALONE)
        assert own == [answers[i] for i in places]


def test_types_are_drawn_as_often_as_the_weights_say(tmp_path) -> None:
    drawn = Mixture(tmp_path, np.array([0.2, 0.8])).drawn_types(20_000, 0)
    assert abs((drawn == 1).mean() - 0.8) < 0.02


def test_the_record_says_how_the_weights_came_about(trained) -> None:
    record = load_record(Path(trained.output_dir) / "mixture" / "mixture.json")
    gains, regret = np.array(record["gains"]), np.array(record["regrets"])
    assert gains.shape == (2, 2) and regret.shape == (3, 2)
    assert regret[0].tolist() == [0, 0] and regret[1, 0] == 0 and regret[2, 1] == 0
    assert regret[1, 1] == pytest.approx(gains[0, 0] - gains[0, 1])
    assert regret[2, 0] == pytest.approx(3 * (gains[1, 1] - gains[1, 0]))
    assert record["made_by"]["prompts"] == 6 and sum(record["weights"]) == pytest.approx(1)


def test_gains_are_log_ratios_by_plain_transformers(copied, monkeypatch) -> None:
    """Of completions that are drawn again by the policies, which the seed makes the same."""
    seen, real = [], Comparison.gains
    monkeypatch.setattr(Comparison, "gains", lambda self, seed: seen.append(self) or real(self, seed))
    shutil.rmtree(Path(copied.output_dir) / "mixture")
    train(copied)
    (compared,) = seen
    kept = np.array(load_record(Path(copied.output_dir) / "mixture" / "mixture.json")["gains"])
    policy = compared.policy
    for j in range(2):
        pairs = compared._drawn(j, copied.seed)
        for i in range(2):
            policy.use(i)
            ratios = []
            for prompt, answer in zip(compared.prompts, pairs.chosen, strict=True):
                of_policy = plain_logp(policy, prompt, answer)
                with policy.disable_adapter():
                    ratios.append(of_policy - plain_logp(policy, prompt, answer))
            assert np.mean(ratios) == pytest.approx(kept[i, j], abs=1e-4)


def plain_logp(policy, prompt: np.ndarray, answer: np.ndarray) -> float:
    ids = torch.from_numpy(np.concatenate([prompt, answer]).astype(np.int64))[None]
    with policy.plain_attention() as model, torch.no_grad():
        logps = model(ids).logits[0, :-1].double().log_softmax(-1)
    return float(logps.gather(1, ids[0, 1:, None])[len(prompt) - 1 :].sum())


@pytest.fixture
def copied(trained, tmp_path) -> TrainConfig:
    """The same in a folder of its own."""
    shutil.copytree(trained.output_dir, tmp_path / "run")
    return replace(trained, types=replace(trained.types), output_dir=str(tmp_path / "run"))


def test_the_mixture_is_made_once(copied, capsys) -> None:
    path = Path(copied.output_dir) / "mixture" / "mixture.json"
    before = path.stat().st_mtime_ns
    train(copied)
    assert "holds the mixture of these policies: nothing to do." in capsys.readouterr().out
    assert path.stat().st_mtime_ns == before
    copied.types.regret_weights = [1.0, 1.0]
    train(copied)
    assert load_record(path)["made_by"]["scale"] == [1.0, 1.0]


def test_iwpo_chat_talks_by_the_mixture(trained, monkeypatch, capsys) -> None:
    pytest.importorskip("jsonargparse", reason="the command iwpo needs it")
    from iwpo_fast.cli import main

    answers = {}
    for name in ("", "mixture/type-0", "mixture/type-1"):
        monkeypatch.setattr("sys.stdin", io.StringIO("say red\n/new\nsay blue\n/new\nsay green\n/new\nsay grey\n"))
        folder = f"{trained.output_dir}/{name}"
        assert main(["chat", "--model", folder, "--temperature", "0", "--max_new_tokens", "4", "--device", "cpu"]) == 0
        answers[name] = capsys.readouterr().out.splitlines()[1:]
    weights = Mixture.load(trained.output_dir).weights
    drawn = [int(np.random.default_rng(seed).choice(2, p=weights)) for seed in (0, 2, 4, 6)]
    assert answers[""] == [answers[f"mixture/type-{number}"][place] for place, number in enumerate(drawn)]


def test_what_is_no_mixture_is_one_sentence(tmp_path) -> None:
    with pytest.raises(ValueError, match="holds no mixture of types: give the output_dir of a training on types"):
        Mixture.load(tmp_path)
    for record in ({"weights": [0.5, 0.4]}, {"weights": "x"}, {}, {"weights": [2.0, -1.0]}):
        save_record(tmp_path / "mixture.json", record)
        with pytest.raises(ValueError, match=r"mixture\.json is damaged: run the training on types again"):
            Mixture.load(tmp_path)
