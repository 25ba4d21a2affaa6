"""What is said of weights, labels and drawn pairs."""

from __future__ import annotations

import numpy as np

from iwpo_fast.importance.effects import effect_lines, effects_of


def test_drawn_pairs_are_counted_and_their_weights_and_labels_left_out() -> None:
    weight = np.array([1.5, 0.5, 1.0, 0.1])
    smoothing = np.array([0.6, 0.2, 0.1, 0.9])
    effects = effects_of(weight, smoothing, np.array([False, False, False, True]))
    assert (effects["labelled"], effects["drawn"], effects["turned"]) == (3, 1, 1)
    assert np.isclose(effects["ess"], 3.0**2 / (3 * 3.5))
    assert np.isclose(effects["label_smoothing"], 0.3)
    assert effect_lines(effects) == [
        "weights: unequal, with an effective sample size of 85.7% of 3 labelled pairs",
        "labels: softened, by 0.300 on the mean; 1 of 3 (33.3%) are taken for wrong rather than right",
        "drawn pairs: 1, beside 3 labelled ones",
    ]


def test_what_was_left_alone_is_said_to_be() -> None:
    lines = effect_lines(effects_of(np.full(7, 0.3), np.zeros(7), np.zeros(7, dtype=bool)))
    assert lines == ["weights: all alike", "labels: hard, as they were given", "drawn pairs: none"]
