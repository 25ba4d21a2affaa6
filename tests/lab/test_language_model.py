"""The language-model level: sampling, KL, comparison at equal KL, and the whole of it at toy size."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import cast

import numpy as np
import pytest
import torch
from transformers import PreTrainedTokenizerBase

from iwpo_fast.config import OptimConfig, TinyConfig
from iwpo_fast.data import Pairs
from iwpo_fast.data.pairs import CandidateTokens
from iwpo_fast.data.ragged import Ragged
from iwpo_fast.data.unique import Responses
from iwpo_fast.models.tiny import tiny_model, train_tokenizer
from lab.exact.arms import ARMS
from lab.exact.policy import ArmData
from lab.language_model import run
from lab.language_model.compare import at_budget, compare
from lab.language_model.sampling import kl_along, sample
from lab.language_model.settings import (
    FULL,
    MAIN,
    OTHER_NOISE,
    OTHERS,
    SHORT,
    WITHOUT_SAMPLES,
    LabSettings,
    Plan,
    choice,
)
from lab.language_model.simulate import win_rate
from lab.language_model.training import arm_pairs, objective_of
from lab.language_model.world import LabWorld

SAMPLED = "logistic, ν 1, 4 sampled; auto"
PROMPTS = ["a b c", "b", "c c a a b b"] * 20
TINY = TinyConfig(vocab_size=264, hidden_size=32, layers=1, heads=2)


@pytest.fixture(scope="module")
def tokenizer() -> PreTrainedTokenizerBase:
    return train_tokenizer(PROMPTS, 264)


def model_of(tokenizer: PreTrainedTokenizerBase, seed: int, sharpness: float = 8.0) -> torch.nn.Module:
    model = tiny_model(TINY, tokenizer, seed).eval()
    with torch.no_grad():
        model.get_input_embeddings().weight.mul_(sharpness)
    return model


def test_recorded_log_probs_are_those_of_a_whole_forward_pass(tokenizer: PreTrainedTokenizerBase) -> None:
    model = model_of(tokenizer, 0)
    samples = sample(model, tokenizer, PROMPTS, max_new_tokens=12, seed=1)
    places = samples.logps.shape[1]
    for row in range(len(PROMPTS)):
        drawn = int(samples.drawn[row].sum())
        tokens = samples.tokens[row][samples.mask[row]]
        with torch.no_grad():
            whole = model(tokens[None]).logits[0].log_softmax(-1)
        torch.testing.assert_close(samples.logps[row, :drawn], whole[len(tokens) - drawn - 1 : -1], atol=2e-4, rtol=0)
        ended = tokens[-1] == tokenizer.eos_token_id
        assert ended or drawn == places


@pytest.mark.slow
def test_samples_follow_the_model(tokenizer: PreTrainedTokenizerBase) -> None:
    model = model_of(tokenizer, 0)
    samples = sample(model, tokenizer, ["a b c"] * 4000, max_new_tokens=1, seed=0)
    probs = samples.logps[0, 0].exp()
    share = torch.bincount(samples.tokens[:, -1], minlength=len(probs)) / 4000
    error = (probs * (1 - probs) / 4000).sqrt()
    assert ((share - probs).abs() < 5 * error + 1e-3).all()


def test_equal_policies_draw_equal_completions_and_have_no_kl(tokenizer: PreTrainedTokenizerBase) -> None:
    one, two = (sample(model_of(tokenizer, 0), tokenizer, PROMPTS, max_new_tokens=8, seed=3) for _ in range(2))
    assert torch.equal(one.tokens, two.tokens)
    assert kl_along(one, model_of(tokenizer, 0)).abs().max() < 1e-4


def test_a_scale_is_a_factor_on_the_log_ratio_to_the_reference(tokenizer: PreTrainedTokenizerBase) -> None:
    model, reference = model_of(tokenizer, 0), model_of(tokenizer, 1)
    plain = [sample(one, tokenizer, PROMPTS, max_new_tokens=1, seed=3).logps for one in (model, reference)]
    scaled = sample(model, tokenizer, PROMPTS, max_new_tokens=1, seed=3, reference=reference, scale=1.7).logps
    torch.testing.assert_close(scaled, (1.7 * plain[0] - 0.7 * plain[1]).log_softmax(-1), atol=1e-4, rtol=0)
    alike = [
        sample(model, tokenizer, PROMPTS, max_new_tokens=8, seed=3, reference=other, scale=scale).tokens
        for other, scale in ((None, 1.0), (model, 0.3))
    ]
    assert torch.equal(*alike)
    none = sample(model, tokenizer, PROMPTS, max_new_tokens=8, seed=3, reference=reference, scale=0.0)
    assert torch.equal(none.tokens, sample(reference, tokenizer, PROMPTS, max_new_tokens=8, seed=3).tokens)
    assert kl_along(none, reference).abs().max() < 1e-4


def test_kl_has_the_mean_of_the_log_ratio(tokenizer: PreTrainedTokenizerBase) -> None:
    model, reference = model_of(tokenizer, 0, 4.0), model_of(tokenizer, 1, 4.0)
    samples = sample(model, tokenizer, ["a b c"] * 3000, max_new_tokens=2, seed=0)
    kl = kl_along(samples, reference)
    places = samples.logps.shape[1]
    with torch.no_grad():
        ref = reference(samples.tokens, attention_mask=samples.mask.long()).logits[:, -places - 1 : -1].log_softmax(-1)
    index = samples.tokens[:, -places:, None]
    ratio = ((samples.logps - ref).gather(2, index)[..., 0] * samples.drawn).sum(1)
    assert kl.mean() > 0.1
    assert abs(kl.mean() - ratio.mean()) < 5 * ratio.std() / 3000**0.5


def test_measures_are_read_where_the_path_first_reaches_the_budget() -> None:
    path = {"kl": [1.0, 9.0, 4.0], "gold": [1.0, 2.0, 0.0]}
    assert at_budget(path, "gold", 0.25) == (0.5, False)
    assert at_budget(path, "gold", 4.0) == (1.5, True)
    assert at_budget(path, "gold", 16.0) == (2.0, False)


def test_comparison_is_paired_by_seed() -> None:
    def path(gain: float) -> dict[str, list[float]]:
        return {"kl": [1.0, 4.0], "gold": [gain] * 2, "scaled_gold": [gain] * 2, "win_rate": [0.5 + gain / 10] * 2}

    dpo = {seed: path(1.0 + seed) for seed in range(4)}
    better = {seed: path(1.1 * (1.0 + seed)) for seed in (0, 1, 3)}
    found = compare({"dpo": dpo, "iwpo": better}, "iwpo", (1.0, 2.0))
    assert found["seeds"] == (0, 1, 3)
    assert found["change"] is not None and found["win_change"] is not None
    assert found["change"]["mean"] == pytest.approx(10.0)
    assert found["change"]["high"] - found["change"]["low"] == pytest.approx(0.0, abs=1e-9)
    assert found["win_change"]["mean"] == pytest.approx(100 * np.mean([0.01, 0.02, 0.04]))
    assert compare({"dpo": dpo}, "dpo", (2.0,))["change"] is None


def test_win_rate_counts_ties_half() -> None:
    assert win_rate(np.array([[1.0, 2.0]]), np.array([[1.0, 0.0]])) == pytest.approx(0.875)


def test_arms_become_objectives_of_the_library() -> None:
    ones, zeros = torch.ones(3), torch.zeros(3)
    gaps = torch.tensor([[1.0, 2.0], [-1.0, 0.0], [0.5, 0.5]])
    arms = {
        "sigmoid": ArmData(ones, zeros),
        "wpo": ArmData(ones, zeros, wpo=True),
        "d_dpo": ArmData(ones, zeros, targets=gaps),
        "e_dpo": ArmData(ones, zeros, targets=gaps, forward_kl=0.02),
        "p_dpo": ArmData(ones, zeros, forward_kl=0.02),
    }
    for name, arm in arms.items():
        assert objective_of(arm, 0.1).name == name
    assert objective_of(arms["e_dpo"], 0.1).params == {"gamma": 0.02}
    with pytest.raises(ValueError, match="of the exact laboratory alone"):
        objective_of(replace(arms["sigmoid"], objective=lambda pair, beta: pair.h), 0.1)


def test_pairs_of_an_arm_hold_its_columns_and_no_gold() -> None:
    row = Ragged.from_rows([[1], [2], [3]])
    gold = {"score_chosen": np.ones(3), "score_rejected": np.zeros(3), "cluster": np.zeros(3)}
    pairs = Pairs(row, row, row, np.ones(3), None, gold)
    weights, smoothing = torch.tensor([0.5, 1.0, 1.5]), torch.tensor([0.0, 0.1, 0.2])
    world = cast(LabWorld, SimpleNamespace(pairs=pairs))
    plain = arm_pairs(world, ArmData(weights, smoothing))
    assert plain.scores is None and plain.columns == {}
    np.testing.assert_array_equal(plain.weight, [0.5, 1.0, 1.5])
    np.testing.assert_allclose(plain.label_smoothing, [0.0, 0.1, 0.2], atol=1e-7)
    gaps = torch.tensor([[1.0, 2.0], [-1.0, 0.0], [0.5, 0.25]])
    distilled = arm_pairs(world, ArmData(weights, torch.zeros(3), targets=gaps))
    assert distilled.label_smoothing is None and distilled.scores is not None
    np.testing.assert_array_equal(distilled.scores[:, 0] - distilled.scores[:, 1], gaps.numpy())


def test_pairs_of_an_arm_are_made_of_any_responses_to_their_prompts() -> None:
    labelled = Pairs(
        Ragged.from_rows([[1], [2]]), Ragged.from_rows([[3], [4, 4]]), Ragged.from_rows([[5], [6]]), np.ones(2)
    )
    candidates = CandidateTokens(Ragged.from_rows([[7, 8], [3]]), np.array([1, 0]), np.array([0, 1]))
    pairs = replace(labelled, candidates=candidates)
    responses = Responses.of(pairs)
    world = cast(LabWorld, SimpleNamespace(pairs=pairs, responses=responses))
    of_second, again = responses.candidates
    assert again == responses.chosen[0], "the same tokens behind the same prompt are one response"
    completions = torch.tensor([[responses.chosen[0], responses.rejected[0]], [of_second, responses.chosen[1]]])
    made = arm_pairs(world, ArmData(torch.ones(2), torch.tensor([0.0, 0.5]), completions=completions))
    assert [made.prompt[i].tolist() for i in range(2)] == [[1], [2]]
    assert [made.chosen[i].tolist() for i in range(2)] == [[3], [7, 8]]
    assert [made.rejected[i].tolist() for i in range(2)] == [[5], [4, 4]]
    assert made.ref_logps is None and made.candidates is None


def test_plans_name_known_arms_and_start_with_the_main_ones() -> None:
    for plan in (FULL, OTHER_NOISE, SHORT):
        jobs = plan.jobs()
        assert len(jobs) == len(set(jobs))
        assert {arm for _, arm in jobs} <= ARMS.keys()
        assert jobs[0][1] == "dpo"
    full = FULL.jobs()
    assert {arm for _, arm in full} == {*MAIN, *OTHERS}
    assert {(seed, arm) for seed in range(2, 7) for arm in MAIN} == set(full[: 5 * len(MAIN)])


def test_the_choice_has_five_seeds_that_no_other_plan_has_and_ends_each_before_the_next() -> None:
    jobs = choice(["MADPO; linear", "d-DPO; linear"]).jobs()
    seeds = [seed for seed, _ in jobs]
    assert seeds == sorted(seeds) and len(set(seeds)) == 5
    assert not set(seeds) & {seed for plan in (FULL, OTHER_NOISE, SHORT) for seed, _ in plan.jobs()}
    assert [arm for _, arm in jobs[:4]] == ["dpo", "MADPO; linear", "d-DPO; linear", WITHOUT_SAMPLES]


@pytest.mark.slow
def test_a_run_at_toy_size_resumes_and_reports(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    settings = LabSettings(
        model=replace(FULL.settings.model, vocab_size=300, hidden_size=32, layers=1),
        warmup_pairs=64,
        warmup=OptimConfig(lr=3e-3, pairs_per_step=32),
        pairs=120,
        optim=OptimConfig(lr=1e-3, pairs_per_step=32, schedule="constant"),
        steps=2,
        test_prompts=8,
        samples=2,
        max_new_tokens=12,
    )
    arms = ("dpo", "iwpo", SAMPLED)
    plan = Plan(settings, [(arms, range(2))], budgets=(0.001,))
    monkeypatch.setattr(run, "SHORT", plan)
    arguments = ["--short", "--out", str(tmp_path / "out"), "--parts", str(tmp_path / "parts"), "--commit", "none"]
    path = run.main(arguments)
    first = json.loads(path.read_text())
    assert first["not_run"] == [] and first["environment"]["commit"] == "none"
    assert [row["arm"] for row in first["comparisons"]] == [*arms] * 2
    assert first["paths"]["dpo"]["0"]["kl"][1] > 0
    assert path.with_suffix(".png").exists() and "IWPO" in path.with_suffix(".md").read_text()
    capsys.readouterr()
    again = json.loads(run.main(arguments).read_text())
    assert again["paths"] == first["paths"]
    assert "of 6:" not in capsys.readouterr().out, "a finished path is not made again"
