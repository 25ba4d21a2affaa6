"""The laboratory of reward hacking: paths of proxy and gold reward at both levels, at toy size."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from iwpo_fast.config import OptimConfig
from lab import hacking
from lab.exact import hacking as exact
from lab.exact.rewards import CLUSTERS, score_by
from lab.exact.worlds import WorldSettings, make_world
from lab.hacking import ARMS, draw, lost, mean_curve, table
from lab.language_model.hacking import SCALES, follow
from lab.language_model.settings import LabSettings


def test_what_is_lost_is_read_at_the_end_of_a_path() -> None:
    curve = {"kl": [0.5, 1.0, 2.0], "proxy": [1.0, 2.0, 3.0], "gold": [0.5, 1.5, 1.0]}
    assert lost(curve) == (0.5, 2.0)
    assert mean_curve([curve, {name: [0.0] * 3 for name in curve}])["gold"] == [0.25, 0.75, 0.5]
    assert "| +2.00 / +1.50 | 0.50 | +2.00 |" in table({"dpo": curve})


def test_the_proxy_of_unseen_prompts_ranks_completions_as_the_gold_reward_does() -> None:
    world = make_world(WorldSettings(1000, noise=0.0), 1)
    scores = score_by(world, ARMS["iwpo"].rewards, CLUSTERS, seed=1)
    proxy, gold = exact.proxy_rewards(scores, world), world.test.gold
    assert proxy.shape == gold.shape
    centred = [values - values.mean(1, keepdim=True) for values in (proxy, gold)]
    assert float(np.corrcoef(*(values.flatten().numpy() for values in centred))[0, 1]) > 0.5


@pytest.mark.slow
def test_the_exact_level_follows_every_arm_and_draws(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(exact, "REGIMES", ("300 pairs",))
    arguments = ["exact", "--worlds", "1", "--out", str(tmp_path), "--parts", str(tmp_path), "--commit", "none"]
    result = json.loads(hacking.main(arguments).read_text())
    assert result["curves"].keys() == ARMS.keys()
    for curve in result["curves"].values():
        assert curve["kl"] == sorted(curve["kl"]) and curve["kl"][2] == pytest.approx(0.5, abs=1e-3)
        assert curve["gold"][2] > 0 and curve["proxy"][2] > 0
    assert draw(tmp_path).read_bytes().startswith(b"\x89PNG")
    with pytest.raises(ValueError, match=r"run python -m lab\.hacking exact first"):
        draw(tmp_path / "elsewhere")


@pytest.mark.slow
def test_a_language_model_is_followed_to_larger_kl_at_larger_scales(tmp_path: Path) -> None:
    full = LabSettings()
    settings = replace(
        full,
        model=replace(full.model, vocab_size=300, hidden_size=32, layers=1),
        warmup_pairs=64,
        warmup=OptimConfig(lr=3e-3, pairs_per_step=32),
        pairs=120,
        optim=OptimConfig(lr=3e-3, pairs_per_step=32, schedule="constant"),
        steps=2,
        test_prompts=8,
        samples=2,
        max_new_tokens=12,
    )
    result = follow(settings, range(1), tmp_path, None)
    assert result["curves"].keys() == ARMS.keys() == result["seeds"][0].keys()
    for curve in result["curves"].values():
        assert len(curve["kl"]) == len(SCALES) and 0 < curve["kl"][0] < curve["kl"][-1]
        assert np.isfinite([*curve["proxy"], *curve["gold"]]).all()
