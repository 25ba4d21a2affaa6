"""The laboratory's comparison of clusters: worlds that distract k-means, what is compared, and a run in miniature."""

from __future__ import annotations

import json
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from lab.exact import clusters
from lab.exact.policy import TrainSettings
from lab.exact.worlds import DISTRACTIONS, WorldSettings, make_world


def test_what_distracts_stands_beside_prompt_features_and_changes_nothing_else_of_a_prompt() -> None:
    settings = WorldSettings(200)
    plain, distracting = make_world(settings, 3), make_world(replace(settings, distraction=2.0), 3)
    assert plain.train.prompt_features.shape[1] + DISTRACTIONS == distracting.train.prompt_features.shape[1]
    assert torch.equal(plain.train.prompt_features, distracting.train.prompt_features[:, :-DISTRACTIONS])
    assert 1.8 < distracting.test.prompt_features[:, -DISTRACTIONS:].std() < 2.2
    for name in ("task", "features", "gold", "ref_logps"):
        assert torch.equal(getattr(plain.test, name), getattr(distracting.test, name))


def part(gains: list[float]) -> dict:
    """A regime of three worlds with gains of gold reward that are the same at all budgets, DPO first."""
    gold = np.array(gains)[None, :, None] * np.array([0.9, 1.0, 1.1])[:, None, None] * np.ones(4)
    return {"gold": gold.tolist(), "accuracies": [[[0.6, 0.7], [0.6, 0.7], [0.65, 0.8]]] * 3}


def test_gains_are_compared_with_dpo_and_the_mixture_with_k_means() -> None:
    found = clusters.compared(part([1.0, 0.9, 1.0, 1.1, 1.0, 1.0, 1.2]))
    gains = found["gain"]["posterior labels"]
    means = {name: interval["mean"] for name, interval in gains.items()}
    assert means == pytest.approx(
        {"one cluster": -10, "k-means": 0, "mixture": 10, "mixture against k-means": 10}, abs=1e-6
    )
    assert found["gain"]["the defaults until 2026-11-26"]["mixture"]["mean"] == pytest.approx(20)
    assert found["accuracy"]["gold"]["mixture against k-means"]["mean"] == pytest.approx(10)
    assert found["dpo"] == pytest.approx(1)


def test_regimes_with_distraction_have_a_mean_of_their_own() -> None:
    parts = {
        name: part([1.0, 1.0, 1.0, 1.5 if settings.distraction else 1.0, 1.0, 1.0, 1.0])
        for name, settings in clusters.REGIMES.items()
    }
    assert clusters.mean_of(parts, True)["posterior labels"]["mean"] == pytest.approx(50)
    assert clusters.mean_of(parts, False)["posterior labels"]["mean"] == pytest.approx(0)


@pytest.mark.slow
def test_a_run_in_miniature_leaves_its_results_and_a_second_one_reads_its_parts(tmp_path, monkeypatch) -> None:
    monkeypatch.setattr(
        clusters, "REGIMES", {"few": WorldSettings(150), "distraction": WorldSettings(150, distraction=2.0)}
    )
    monkeypatch.setattr(clusters, "NOISE_SHAPE", (120, 32, 8))
    monkeypatch.setattr(clusters, "TrainSettings", lambda: TrainSettings(steps=10, hidden=0))
    arguments = ["--worlds", "2", "--out", str(tmp_path), "--parts", str(tmp_path / "parts"), "--commit", "none"]
    path = clusters.main(arguments)
    result, text = json.loads(path.read_text()), path.with_suffix(".md").read_text()
    assert set(result["regimes"]) == {"few", "distraction"}
    assert set(result["noise"]["above half"]) == {"k-means", "a gate for each fold", "one gate"}
    assert "| few |" in text and "mean over regimes with distraction" in text

    def never(*_: object) -> None:
        raise AssertionError("simulated again")

    monkeypatch.setattr(clusters, "_simulate", never)
    assert json.loads(clusters.main(arguments).read_text())["regimes"] == result["regimes"]
