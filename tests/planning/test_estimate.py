"""The recipe of IWPO and its estimate, with no data, no model and no network."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("jsonargparse", reason="recipes are read by it")

from iwpo_fast.cli import RUN, main
from iwpo_fast.config import (
    CandidateConfig,
    DataConfig,
    DataShapeConfig,
    ModelConfig,
    ObjectiveConfig,
    OptimConfig,
    PlanConfig,
    RunConfig,
    TrainConfig,
    dataclass_from,
)
from iwpo_fast.pipeline import stages as pipeline_stages
from iwpo_fast.planning import estimate_lines
from iwpo_fast.planning import stages as planning_stages
from iwpo_fast.planning.draws import HOST_SECONDS_OF_A_LAYER, sample
from iwpo_fast.planning.figures import seconds_of
from iwpo_fast.planning.gpus import GPUS
from iwpo_fast.planning.setting import Setting
from iwpo_fast.planning.stages import reference, train

RECIPE = Path(__file__).parents[2] / "recipes" / "iwpo_ultrafeedback_mistral.yaml"
SHAPE = {
    "model_type": "llama",
    "hidden_size": 64,
    "intermediate_size": 128,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "vocab_size": 100,
}
SIZES = DataShapeConfig(prompts=40, responses=4, prompt_tokens=10, response_tokens=6)


@pytest.fixture(autouse=True)
def nothing_here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path))


def config(**parts: Any) -> RunConfig:
    plan = PlanConfig(on="h100", data=SIZES, model=dict(SHAPE))
    settings: dict[str, Any] = {
        "data": DataConfig("somebody/pairs", eval_fraction=0.1),
        "model": ModelConfig(path="somebody/model"),
        "optim": OptimConfig(pairs_per_step=8),
        "dry_run": True,
        "plan": plan,
    }
    return RunConfig(**(settings | parts))


def planned(**plan: Any) -> PlanConfig:
    return replace(config().plan, **plan)


@pytest.mark.slow
def test_the_recipe_is_planned_from_what_it_says_itself(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    flags = ["--dry_run", "true", "--plan.on", "h100", "--plan.gpus", "8"]
    assert main(["run", "--config", str(RECIPE), *flags]) == 0
    said = capsys.readouterr().out
    assert said.startswith("weights, form cautious: method none, soft_labels posterior, preferred_pairs 1, ")
    assert "data: assumed, from plan.data (openbmb/UltraFeedback is not here): 62,688 prompts of 200 tokens" in said
    assert "assumed, from plan.model: 7,241,732,096 parameters, 7,241,732,096 of them trained; shared batches" in said
    # Each prompt runs once with its four responses; held-out ones with two.
    assert re.search(rf"reference +{62_688 * (200 + 4 * 310) + 1_279 * (200 + 2 * 310):,} ", said)
    assert re.search(r"evaluate +- .* from the last evaluation of the training", said)
    # Labelled pairs and as many preferred ones in 980 steps of 128, eleven evaluations, and the self-test: one
    # micro-batch of 19 pairs at most, and one pair (all are as long) by itself twice.
    [tokens] = re.findall(r"train +([\d,]+) ", said)
    assert 0 < int(tokens.replace(",", "")) - (2 * 62_688 + 11 * 1_279) * 820 <= 21 * 820
    assert "125,376 pairs, 980 steps" in said and "training fits from 4 GPUs on" in said
    assert "hours and bytes are arithmetic" in said
    assert not list(tmp_path.iterdir())


@pytest.mark.slow
def test_the_recipe_is_a_configuration_that_can_run(monkeypatch: pytest.MonkeyPatch) -> None:
    parsed: list[RunConfig] = []
    monkeypatch.setitem(RUN, "run", lambda settings: parsed.append(dataclass_from(RunConfig, settings)))
    assert main(["run", "--config", str(RECIPE)]) == 0
    [recipe] = parsed
    assert recipe.data.as_chat and recipe.data.pairs_from_candidates == "best_worst"
    assert recipe.plan.on is None and not recipe.dry_run


REFUSED = [
    (["--plan.on", "h99"], "plan.on is h99: it must be a100 or h100 or h200 or b200 or l40s or mi300x, or null."),
    (["--plan.on", "h100", "--dry_run", "false"], "plan.on is h100 and dry_run is false, and only a dry run estimates"),
    (["--plan.gpus", "8"], "plan.gpus is 8 and plan.on is null, which estimates nothing: leave plan.gpus out, or set"),
    (["--plan.on", "h100", "--plan.utilisation", "[0.5, 0.3]"], "plan.utilisation is from 0.5 to 0.3: give the worse"),
    (
        ["--plan.on", "h100", "--plan.utilisation", "[0, 2]"],
        "plan.utilisation is (0.0, 2.0): it must be two numbers in (0, 1].",
    ),
    (
        ["--plan.on", "h100", "--plan.gpus", "8", "--shard_over", "3"],
        "shard_over is 3 and plan.gpus is 8, which cannot",
    ),
    (
        ["--plan.on", "h100", "--plan.gpus", "8", "--context_parallel", "3"],
        "context_parallel is 3 and plan.gpus is 8, which cannot be split into groups of so many: set plan.gpus to a",
    ),
    (["--plan.on", "h100", "--plan.model", "null"], "model.path alignment-handbook/zephyr-7b-sft-full is not here, so"),
    (["--plan.on", "h100", "--plan.model", "{hidden_size: 8}"], "plan.model has no model_type: add it, such as"),
    (["--plan.on", "h100", "--plan.model", "{model_type: mistrall}"], "plan.model is no configuration that"),
    (
        ["--plan.on", "h100", "--plan.model", "{model_type: mistral, layers: 8}"],
        "plan.model has layers, which transformers' mis",
    ),
    (["--plan.on", "h100", "--plan.data", "null"], "data.path openbmb/UltraFeedback is not there, and the hub cannot"),
    (["--plan.on", "h100", "--plan.data.prompts", "0"], "plan.data.prompts is 0: it must be positive"),
    (
        ["--plan.on", "h100", "--model.path", "tiny"],
        "model.path is tiny, whose vocabulary is made from the data, which",
    ),
]


@pytest.mark.slow
@pytest.mark.parametrize(("flags", "sentence"), REFUSED, ids=[" ".join(flags) for flags, _ in REFUSED])
def test_what_cannot_be_planned_is_one_sentence(
    flags: list[str], sentence: str, capsys: pytest.CaptureFixture[str]
) -> None:
    call = ["run", "--config", str(RECIPE), "--dry_run", "true", *flags]
    assert main(call) == 2
    said = capsys.readouterr().err
    assert said.startswith(f"iwpo: error: {sentence}")
    assert said.count("\n") == 1


def test_pairs_and_responses_are_those_that_the_settings_make_of_the_assumed_candidates() -> None:
    def of(**data: Any) -> tuple[int, int, int]:
        found = Setting.of(config(data=replace(config().data, **data))).lengths
        assert found.held_out is not None
        return len(found.training.chosen), len(found.training), len(found.held_out)

    assert of() == (36, 36 * 4, 4 * 2)
    assert of(pairs_from_candidates="all") == (36 * 6, 36 * 4, 4 * 4)
    assert of(limit=20) == (18, 18 * 4, 2 * 2)


def test_assumed_lengths_are_cut_to_the_longest_that_fits() -> None:
    training = Setting.of(config(data=replace(config().data, max_length=12))).lengths.training
    assert training.prompts.lengths.tolist() == [6] * 36 and set(training.completions.lengths.tolist()) == {6}


def test_a_hub_id_is_not_asked_for_while_there_is_something_to_assume(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("iwpo_fast.planning.lengths.is_offline_mode", lambda: False)
    monkeypatch.setattr("iwpo_fast.planning.lengths.read_rows", lambda _: pytest.fail("read"))
    assert "a plan downloads nothing; plan.data null counts them" in Setting.of(config()).lengths.source


def test_a_bad_file_is_refused_and_not_assumed_away(tmp_path: Path) -> None:
    (tmp_path / "pairs.jsonl").write_text("{}\n")
    with pytest.raises(ValueError, match=r"pairs\.jsonl, row 1"):
        Setting.of(config(data=DataConfig("pairs.jsonl")))


def test_rows_of_one_completion_are_planned_where_they_can_be_trained_on_alone(tmp_path: Path) -> None:
    rows = [{"prompt": f"{i}?", "completion": "Yes.", "label": i % 2} for i in range(6)]
    (tmp_path / "kto.jsonl").write_text("\n".join(map(json.dumps, rows)))
    data, plan = DataConfig("kto.jsonl", eval_fraction=0.0), PlanConfig(on="h100")
    with pytest.raises(ValueError, match=r"In kto\.jsonl, row 1 has one completion .* iwpo run compares two answers"):
        estimate_lines(RunConfig(data, dry_run=True, plan=plan))
    with pytest.raises(ValueError, match=r"the objective sigmoid takes pairs: set objective\.name to one of .*kto"):
        estimate_lines(TrainConfig(data, dry_run=True, plan=plan))
    kto = TrainConfig(data, dry_run=True, plan=plan, objective=ObjectiveConfig(name="kto"))
    assert any("6 prompts" in line and "6 responses" in line and "6 rows" in line for line in estimate_lines(kto))


def test_data_without_their_tokenizer_are_assumed(tmp_path: Path) -> None:
    (tmp_path / "pairs.jsonl").write_text('{"prompt": "a", "chosen": " b", "rejected": " c"}\n' * 40)
    found = Setting.of(config(data=DataConfig("pairs.jsonl"))).lengths
    assert "the tokenizer of somebody/model is not here" in found.source and len(found.training.prompts) == 38


def test_hours_are_operations_over_the_share_of_the_peak_and_at_worst_the_traffic_too() -> None:
    setting = Setting.of(config(plan=planned(gpus=4, utilisation=(0.25, 0.5)), shard_over=2))
    gpu = GPUS["h100"]
    best, worst = seconds_of(setting, 1e18, traffic=9e11)
    assert best == pytest.approx(1e18 / (4 * 989e12 * 0.5))
    assert worst == pytest.approx(1e18 / (4 * 989e12 * 0.25) + 9e11 / gpu.link)


def test_gpus_divide_the_work_and_not_the_tokens() -> None:
    one, four = (train(Setting.of(config(plan=planned(gpus=gpus)))) for gpus in (1, 4))
    assert one.work.tokens == four.work.tokens
    assert one.flops == four.flops and one.seconds[0] == pytest.approx(4 * four.seconds[0])


def test_shared_models_receive_their_weights_for_every_micro_batch() -> None:
    alone, shared = (Setting.of(config(plan=planned(gpus=2), shard_over=n)) for n in (1, 2))
    entries = sum(p.numel() for p in shared.policy.parameters())
    batches = reference(shared).work.batches
    more = reference(shared).seconds[1] - reference(alone).seconds[1]
    assert more == pytest.approx(2 * entries * batches / 2 / GPUS["h100"].link, rel=1e-6)


def test_a_context_divides_activations_and_gathers_keys_and_values_in_every_pass() -> None:
    alone, split = (Setting.of(config(plan=planned(gpus=n), context_parallel=n)) for n in (1, 2))
    before, after = train(alone), train(split)
    assert after.work.tokens == before.work.tokens and after.flops == before.flops
    assert after.memory["activations"] == before.memory["activations"] / 2
    of_token = 2 * 2 * 4 * 16 * 2  # keys and values, layers, heads, their size, bytes
    kept = before.work.largest[0] * (of_token / 2 + of_token * 1.25)
    assert after.memory["gathered keys and values"] == pytest.approx(kept)
    more = reference(split).seconds[1] - reference(alone).seconds[1] / 2
    assert more == pytest.approx(reference(split).work.tokens * of_token / 2 / GPUS["h100"].link, rel=1e-6)


def test_drawing_reads_all_weights_for_every_token_and_at_worst_waits_for_the_host() -> None:
    drawn = CandidateConfig(per_prompt=2, max_new_tokens=20, tokens_per_batch=30 * 12)
    setting = Setting.of(config(candidates=drawn))
    found = sample(setting)
    blocks = 36 * 2 / 12
    entries = sum(p.numel() for p in setting.policy.parameters())
    kept = 2 * 2 * 4 * 16 * 2 * 12 * (10 + 6 / 2)
    assert found.seconds[0] == pytest.approx(blocks * 6 * (2 * entries + kept) / GPUS["h100"].bandwidth)
    assert found.seconds[1] == pytest.approx(blocks * 20 * 2 * HOST_SECONDS_OF_A_LAYER)
    assert found.work.tokens == 72 * (10 + 6)
    assert found.memory["keys and values"] == 12 * 30 * 2 * 2 * 4 * 16 * 2
    drawn_too = reference(setting).work.tokens - reference(Setting.of(config())).work.tokens
    assert drawn_too == 72 * (10 + 6)


def test_stages_that_were_not_asked_for_are_not_planned() -> None:
    lines = estimate_lines(config(), ["weigh", "train"])
    table = [line.split()[0] for line in lines if line.startswith("  ") and ":" not in line.split()[0]]
    assert table[table.index("stage") :][:4] == ["stage", "weigh", "train", "all"]


def test_every_stage_of_a_run_has_an_estimate() -> None:
    assert planning_stages.STAGES.keys() == pipeline_stages.STAGES.keys()
