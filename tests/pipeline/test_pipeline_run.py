"""The pipeline on small data, with adapters, and what it refuses."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import yaml
from pipeline_cases import (
    DATA,
    STAGES,
    TINY,
    read_jsonl,
    refused_in_a_sentence,
    stages_done,
    toy_config,
    toy_rows,
    write_jsonl,
)
from safetensors.torch import load_file

from iwpo_fast.cli import main
from iwpo_fast.config import (
    ClusterConfig,
    DataConfig,
    LoraConfig,
    ModelConfig,
    WeightConfig,
)


def evaluation() -> dict[str, dict[str, float]]:
    return json.loads(Path("run/evaluation/evaluation.json").read_text())


@pytest.mark.parametrize("pairs", [10, pytest.param(100, marks=pytest.mark.slow)])
def test_small_data_make_one_cluster_with_the_default_settings(place, pairs) -> None:
    write_jsonl(DATA, toy_rows()[:pairs])
    assert stages_done(toy_config(data=DataConfig(path=DATA), clusters=ClusterConfig())) == STAGES
    rows = read_jsonl("run/weights/train.jsonl")
    assert {row["cluster"] for row in rows} == {0}
    assert len(rows) == pairs - evaluation()["all"]["pairs"]


def test_pairs_of_a_single_prompt_are_refused_by_the_reward_stage(place) -> None:
    write_jsonl(DATA, [row | {"prompt": "say"} for row in toy_rows(4)])
    with pytest.raises(ValueError, match="give pairs of more prompts"):
        stages_done(toy_config(data=DataConfig(path=DATA, eval_fraction=0.0)))


@pytest.mark.slow
def test_adapters_are_trained_and_evaluated(copied) -> None:
    model = ModelConfig(tiny=TINY, lora=LoraConfig(rank=4))
    config = toy_config(model=model)
    config.optim.lr = 1e-2
    stages_done(config)
    assert Path("run/train/model/adapter_model.safetensors").exists()
    assert evaluation()["all"]["margin"] != 0
    Path("run/train/model/adapter_model.safetensors").write_bytes(b"damaged")
    assert stages_done(config) == ["train"]


def test_the_evaluation_is_that_of_the_trained_policy(finished) -> None:
    table = json.loads((finished / "run/evaluation/evaluation.json").read_text())
    after = json.loads((finished / "run/train/summary.json").read_text())["after"]
    assert table["all"]["accuracy"] == pytest.approx(after["eval_rewards/accuracies"])
    assert table["all"]["margin"] == pytest.approx(after["eval_rewards/margins"], rel=1e-5)
    report = (finished / "run/evaluation/report.md").read_text()
    assert report.count("\n| ") == 2 + len(table)


@pytest.mark.slow
def test_a_low_effective_sample_size_is_refused_after_the_report_and_can_be_forced(copied) -> None:
    report = Path("run/weights/report.json")
    report.unlink()
    config = toy_config(weights=WeightConfig(tau=0.1, gamma=2.0))
    for _ in range(2):
        with pytest.raises(ValueError, match=r"below weights\.min_ess 10\.0%: raise weights\.tau.*set weights\.force"):
            stages_done(config)
        assert report.exists() and not Path("run/weights/train.jsonl").exists()
    config.weights.force = True
    assert stages_done(config) == STAGES[4:]
    assert Path("run/weights/train.jsonl").exists()


REFUSED = [
    (["--clusters.count", "0"], "clusters.count is 0: it must be positive."),
    (["--clusters.min_pairs", "0"], "clusters.min_pairs is 0: it must be positive."),
    (["--clusters.fit_prompts", "3"], "clusters.fit_prompts is 3 and clusters.count is 8"),
    (
        ["--weights.baseline", "group"],
        "weights.baseline is experimental now: set weights.experimental.baseline instead.",
    ),
    (["--weights.method", "rejection"], "weights.method rejection is experimental now: set weights.experimental.meth"),
    (["--weights.tau", "-1"], "weights.tau"),
    (["--rewards.folds", "0"], "rewards.folds"),
    (
        ["--rewards.calibration", "false", "--rewards.max_reward", "3"],
        "rewards.max_reward is 3.0 and rewards.calibration is false, which leaves rewards as they are: leave",
    ),
    (["--clusters.count", "1", "--rewards.residual", "0.1"], "rewards.residual is 0.1 and clusters.count is 1, and a"),
    (["--weights.method", "none", "--weights.force", "true"], "weights.force is True and weights.method is none, wh"),
    (["--optim.lr", "0"], "optim.lr is 0.0: it must be positive and finite."),
    (["--from", "wiegh"], "--from wiegh is no stage: choose one of prepare, reference, cluster, reward, weigh"),
    (["--only", "report"], "--only report is no stage"),
    (["--from", "weigh", "--force", "true"], "--from, --only and --force exclude one another"),
    (["--only", "weigh"], "The stage weigh needs prepare and reference and cluster and reward, which run does not"),
    (["--weights.tua", "1"], "unknown setting weights.tua: did you mean --weights.tau? iwpo run --help lists them."),
    (["--output_dir", DATA], f"output_dir is {DATA} but {DATA} is a file"),
]


@pytest.mark.slow
@pytest.mark.parametrize(("flags", "sentence"), REFUSED, ids=[" ".join(flags) for flags, _ in REFUSED])
def test_what_cannot_work_is_one_sentence_and_nothing_is_written(place, capsys, flags, sentence) -> None:
    refused_in_a_sentence(flags, sentence, capsys)
    assert not list(Path().glob("run/*.json*"))


@pytest.mark.slow
def test_the_command_reads_a_recipe_and_flags(copied, capsys) -> None:
    pytest.importorskip("jsonargparse", reason="the command iwpo needs it")
    recipe = {
        "data": {"path": DATA, "eval_fraction": 0.2, "max_length": 96, "truncation": "drop"},
        "model": {"tiny": {"vocab_size": 320, "hidden_size": 32, "layers": 2, "heads": 2}},
        "optim": {"lr": 1e-3, "pairs_per_step": 8, "max_steps": 6, "tokens_per_batch": 1024},
        "clusters": {"count": 3, "min_pairs": 8, "backend": "sklearn"},
        "rewards": {"heads": "linear"},
        "weights": {"form": "strong"},
        "output_dir": "run",
        "device": "cpu",
    }
    Path("recipe.yaml").write_text(yaml.safe_dump(recipe))
    assert main(["run", "--config", "recipe.yaml"]) == 0
    assert capsys.readouterr().out.count("(done before)") == len(STAGES)
    assert main(["run", "--config", "recipe.yaml", "--weights.tau", "1", "--only", "weigh"]) == 0
    assert json.loads(Path("run/manifest.json").read_text())["stages"]["weigh"]["result"]["tau"] == 1


def test_the_card_says_which_clusters_rewards_and_weights_the_model_was_trained_with(finished: Path) -> None:
    run = finished / "run"
    card = (run / "train/model/README.md").read_text(encoding="utf-8")
    clusters = len(load_file(run / "clusters/centroids.safetensors")["centroids"])
    agreement = json.loads((run / "rewards/report.json").read_text())["total"]["accuracy"]
    assert f"Clusters: {clusters}, of prompts, by kmeans. Rewards: linear heads on features of the model, " in card
    assert f"agree with {agreement:.1%} of the labels. Form of the weights: `strong`; weights: unequal, " in card
    assert str(finished) not in card
