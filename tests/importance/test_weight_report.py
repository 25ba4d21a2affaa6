from __future__ import annotations

import json
import math
from dataclasses import replace
from pathlib import Path

import matplotlib.image
import numpy as np
import pytest
from importance_cases import FULL, make_rewards

from iwpo_fast.config import WeightConfig
from iwpo_fast.importance import pair_weights, report_lines, save_histogram, weight_report

REWARDS = make_rewards(0)
WEIGHTS = pair_weights(REWARDS, FULL, seed=0)


def text(pair: int) -> dict[str, str]:
    return {"prompt": f"Question {pair}", "chosen": f"yes\n{pair}", "rejected": "no " * 100}


def test_clusters_are_summarised_from_their_own_pairs() -> None:
    report = weight_report(WEIGHTS, REWARDS)
    assert [c["cluster"] for c in report["clusters"]] == [0, 1, 2]
    for c in report["clusters"]:
        inside = WEIGHTS.weight[REWARDS.cluster == c["cluster"]]
        assert (c["pairs"], c["smallest"], c["largest"]) == (len(inside), inside.min(), inside.max())
        assert c["ess"] == pytest.approx(inside.sum() ** 2 / (len(inside) * (inside**2).sum()))
        assert c["label_smoothing"] == pytest.approx(WEIGHTS.label_smoothing[REWARDS.cluster == c["cluster"]].mean())


def test_the_histogram_counts_every_pair() -> None:
    report = weight_report(WEIGHTS, REWARDS)
    assert sum(report["counts"]) == report["pairs"] == 600
    assert report["edges"][0] == 0.0 and report["edges"][-1] == WEIGHTS.weight.max()


def test_the_largest_weights_come_first_with_their_texts() -> None:
    asked: list[int] = []
    report = weight_report(WEIGHTS, REWARDS, texts=lambda pair: asked.append(pair) or text(pair), largest=3)
    top = [large["pair"] for large in report["largest"]]
    assert asked == top == np.argsort(-WEIGHTS.weight, kind="stable")[:3].tolist()
    assert [large["text"] for large in report["largest"]] == [text(pair) for pair in top]
    assert report["largest"][0]["weight"] == WEIGHTS.weight.max()


def test_lines_show_sizes_and_one_line_of_each_text() -> None:
    report = weight_report(WEIGHTS, REWARDS, texts=text, largest=2)
    lines = report_lines(report)
    assert lines[0].startswith(f"600 pairs | ess {WEIGHTS.ess:.1%} | skipped 0.0% | tau 2")
    assert len(lines) == 2 + 3 + 2 * 4
    assert f"  chosen    yes {report['largest'][0]['pair']}" in lines
    assert all(len(line) <= 120 and "\n" not in line for line in lines)


def test_lines_say_why_all_weights_are_one_where_the_rewards_agree() -> None:
    agreeing = replace(REWARDS, noise=0.05)
    by_noise = WeightConfig(method="irpss")
    report = weight_report(pair_weights(agreeing, by_noise, seed=0), agreeing)
    assert report_lines(report)[1] == "the members of the ensemble agree: all weights are 1"
    for other in (WeightConfig(method="none"), WeightConfig(ess_target=1.0), WeightConfig(tau=2.0)):
        assert "agree" not in report_lines(weight_report(pair_weights(agreeing, other, seed=0), agreeing))[1]
    noisy = replace(REWARDS, noise=0.2)
    assert "agree" not in report_lines(weight_report(pair_weights(noisy, by_noise, seed=0), noisy))[1]


def test_of_equal_weights_no_pair_is_shown() -> None:
    report = weight_report(pair_weights(REWARDS, WeightConfig(method="none"), seed=0), REWARDS, texts=text)
    assert len(report["largest"]) == 10 and len(report_lines(report)) == 2 + 3


def test_the_noise_of_rewards_is_shown_where_it_is_known() -> None:
    noisy = replace(REWARDS, noise=0.05)
    weights = pair_weights(noisy, WeightConfig(), seed=0)
    first, *_ = report_lines(weight_report(weights, noisy))
    assert first == "600 pairs | ess 100.0% | skipped 0.0% | noise of rewards 5.0%"
    assert "noise" not in report_lines(weight_report(WEIGHTS, REWARDS))[0]


def test_json_holds_texts_in_full_and_no_infinity() -> None:
    infinite = pair_weights(REWARDS, replace(FULL, tau=math.inf), seed=0)
    report = weight_report(infinite, REWARDS, texts=text, largest=1)
    loaded = json.loads(json.dumps(report, allow_nan=False))
    assert loaded["tau"] == "inf"
    assert loaded["largest"][0]["text"]["rejected"] == "no " * 100
    assert loaded["clusters"][1]["ess"] == report["clusters"][1]["ess"]


def test_clusters_without_pairs_are_left_out() -> None:
    rewards = make_rewards(1, clusters=2)
    sparse = type(rewards)(rewards.chosen, rewards.rejected, 2 * rewards.cluster, np.ones(4))
    report = weight_report(pair_weights(sparse, FULL, seed=0), sparse)
    assert [c["cluster"] for c in report["clusters"]] == [0, 2]
    json.dumps(report, allow_nan=False)


def test_resampling_reports_the_skipped_pairs() -> None:
    weights = pair_weights(REWARDS, replace(FULL, realisation="resampling"), seed=0)
    report = weight_report(weights, REWARDS)
    assert 0 < report["skipped"] == np.mean(weights.weight == 0)
    assert sum(c["skipped"] * c["pairs"] for c in report["clusters"]) == pytest.approx(600 * report["skipped"])


@pytest.mark.slow
def test_the_histogram_is_a_picture_that_differs_with_the_weights(tmp_path: Path) -> None:
    rewards = make_rewards(0)
    pictures = []
    for gamma in (0.0, 2.0):
        path = tmp_path / "plots" / f"{gamma}.png"
        save_histogram(path, weight_report(pair_weights(rewards, replace(FULL, gamma=gamma), seed=0), rewards))
        pictures.append(matplotlib.image.imread(path))
    assert pictures[0].shape == pictures[1].shape == (330, 660, 4)
    assert (pictures[0] != pictures[1]).any()
    assert len(list((tmp_path / "plots").iterdir())) == 2
