"""A pipeline whose clusters are learnt with rewards."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import yaml
from pipeline_cases import DATA, STAGES, read_jsonl, refused_in_a_sentence, stages_done, toy_config, write_toy_data

from iwpo_fast.cli import main
from iwpo_fast.config import ClusterConfig, RewardConfig
from iwpo_fast.rewards import Clusters, mixture_clusters
from iwpo_fast.rewards.mixture_choice import Trial
from iwpo_fast.rewards.reward_model import RewardModel

MIXTURE = ClusterConfig(count=3, min_pairs=8, backend="sklearn", method="mixture")


@pytest.mark.slow
def test_the_scores_of_gated_clusters_are_those_of_the_reward_model_and_of_every_stage(place, monkeypatch) -> None:
    """The toy data are too few for a mixture to be worth it, so its rivals are handicapped."""

    def handicapped(inputs) -> list[Trial]:
        return [trial._replace(losses=trial.losses + (trial.kind != "mixture")) for trial in real(inputs)]

    real = mixture_clusters.held_out_trials
    monkeypatch.setattr(mixture_clusters, "held_out_trials", handicapped)
    write_toy_data()
    assert stages_done(toy_config(clusters=MIXTURE)) == STAGES
    assert Clusters.load(Path("run/clusters/centroids.safetensors")).folds == 4
    rows, model = read_jsonl("run/weights/train.jsonl"), RewardModel.load("run/rewards/reward_model")
    found = model.score([row["prompt"] for row in rows], [row["chosen"] for row in rows], device="cpu")
    np.testing.assert_allclose(found.score, [row["score_chosen"] for row in rows], atol=1e-5)
    assert found.cluster.tolist() == [row["cluster"] for row in rows]
    manifest = json.loads(Path("run/manifest.json").read_text())
    assert manifest["stages"]["cluster"]["result"]["mixture"]["taken"] is True


@pytest.mark.slow
def test_the_command_learns_a_mixture_and_says_whether_it_is_taken(copied, capsys) -> None:
    pytest.importorskip("jsonargparse", reason="the command iwpo needs it")
    recipe = {
        "data": {"path": DATA, "eval_fraction": 0.2, "max_length": 96, "truncation": "drop"},
        "model": {"tiny": {"vocab_size": 320, "hidden_size": 32, "layers": 2, "heads": 2}},
        "clusters": {"count": 3, "min_pairs": 8, "backend": "sklearn"},
        "output_dir": "run",
        "device": "cpu",
    }
    Path("recipe.yaml").write_text(yaml.safe_dump(recipe))
    flags = ["--config", "recipe.yaml", "--clusters.method", "mixture", "--only", "cluster"]
    assert main(["run", *flags]) == 0
    assert "a mixture of rewards predicts labels that it has not seen" in capsys.readouterr().out


@pytest.mark.slow
def test_folds_of_rewards_redo_the_clusters_of_a_mixture_and_not_those_of_k_means(copied) -> None:
    folds = RewardConfig(folds=3)
    assert stages_done(toy_config(rewards=folds))[0] == "reward"
    stages_done(toy_config(clusters=MIXTURE), only="cluster")
    assert stages_done(toy_config(clusters=MIXTURE, rewards=folds))[0] == "cluster"


@pytest.mark.slow
@pytest.mark.parametrize(
    ("flags", "sentence"),
    [
        (["--rewards.source", "columns"], "a mixture is learnt with heads on features: set clusters.method to kmeans"),
        (["--clusters.count", "1"], "one cluster has no gate: raise clusters.count"),
    ],
)
def test_what_a_mixture_cannot_learn_from_is_one_sentence(place, capsys, flags, sentence) -> None:
    refused_in_a_sentence(["--clusters.method", "mixture", *flags], sentence, capsys)
