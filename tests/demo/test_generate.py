from __future__ import annotations

import math
from collections import Counter
from dataclasses import replace
from pathlib import Path
from random import Random
from typing import NoReturn

import pytest

from iwpo_fast.demo.generate import DatasetSettings, prefers_first, read_jsonl, write_dataset
from iwpo_fast.demo.tasks import TASKS

SMALL = DatasetSettings(train_pairs=400, eval_pairs=100, warmup_pairs=200)
FILES = ("train.jsonl", "eval.jsonl", "warmup.jsonl")


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("demo") / "data"
    write_dataset(folder, SMALL)
    return folder


def test_each_file_has_its_rows_with_the_families_in_equal_parts(folder) -> None:
    for name, rows in zip(FILES, (400, 100, 200), strict=True):
        counts = Counter(row["task"] for row in read_jsonl(folder / name))
        assert counts == {task: rows // 4 for task in TASKS}


def test_no_prompt_occurs_twice_in_any_of_the_files(folder) -> None:
    prompts = [row["prompt"] for name in FILES for row in read_jsonl(folder / name)]
    assert len(set(prompts)) == len(prompts)


def test_gold_columns_are_the_gold_rewards_of_the_texts(folder) -> None:
    for row in read_jsonl(folder / "train.jsonl"):
        for side in ("chosen", "rejected"):
            reward = TASKS[row["task"]].gold_reward(row["prompt"], row[side])
            assert row[f"gold_{side}"] == pytest.approx(reward, abs=1e-6)


def test_the_two_completions_of_a_row_differ(folder) -> None:
    assert all(row["chosen"] != row["rejected"] for row in read_jsonl(folder / "train.jsonl"))
    assert all(row["completion"] != row["other_completion"] for row in read_jsonl(folder / "warmup.jsonl"))


def test_the_same_settings_give_the_same_bytes_and_another_seed_gives_others(folder, tmp_path) -> None:
    write_dataset(tmp_path / "same", SMALL)
    write_dataset(tmp_path / "other", replace(SMALL, seed=1))
    for name in FILES:
        assert (tmp_path / "same" / name).read_bytes() == (folder / name).read_bytes()
        assert (tmp_path / "other" / name).read_bytes() != (folder / name).read_bytes()


def frequency_of_first(settings, rewards, lengths=(5, 5), draws=20_000) -> float:
    rng = Random(0)
    return sum(prefers_first(rewards, lengths, settings, rng) for _ in range(draws)) / draws


@pytest.mark.parametrize("noise", [0.0, 0.1, 0.3])
def test_labels_follow_bradley_terry_with_flips(noise) -> None:
    settings = DatasetSettings(noise=noise, temperature=2.0)
    bradley_terry = 1 / (1 + math.exp(-(3.0 - 1.0) / 2.0))
    expected = bradley_terry * (1 - noise) + (1 - bradley_terry) * noise
    # Five standard errors of 20,000 draws.
    assert frequency_of_first(settings, (3.0, 1.0)) == pytest.approx(expected, abs=0.018)


@pytest.mark.slow
def test_the_share_of_wrong_labels_is_the_noise_where_the_temperature_is_low(tmp_path) -> None:
    settings = replace(SMALL, train_pairs=4000, noise=0.2, temperature=1e-6)
    write_dataset(tmp_path / "data", settings)
    rows = read_jsonl(tmp_path / "data" / "train.jsonl")
    clear = [row for row in rows if row["gold_chosen"] != row["gold_rejected"]]
    wrong = sum(row["gold_chosen"] < row["gold_rejected"] for row in clear)
    assert wrong / len(clear) == pytest.approx(0.2, abs=0.033)


def test_a_length_bias_makes_annotators_prefer_the_longer_of_two_equal_completions() -> None:
    settings = DatasetSettings(noise=0.0, length_bias=0.5)
    expected = 1 / (1 + math.exp(-0.5 * 2))
    assert frequency_of_first(settings, (1.0, 1.0), lengths=(7, 5)) == pytest.approx(expected, abs=0.018)
    assert frequency_of_first(replace(settings, length_bias=0.0), (1.0, 1.0), (7, 5)) == pytest.approx(0.5, abs=0.018)


def test_a_kill_while_writing_leaves_no_folder(tmp_path, monkeypatch) -> None:
    def killed(*_) -> NoReturn:
        raise KeyboardInterrupt

    monkeypatch.setattr("iwpo_fast.demo.generate.save_json", killed)
    with pytest.raises(KeyboardInterrupt):
        write_dataset(tmp_path / "data", SMALL)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    "change, named",
    [
        ({"train_pairs": 0}, "train_pairs"),
        ({"noise": 1.5}, "noise"),
        ({"temperature": 0.0}, "temperature"),
        ({"warmup_pairs": 100_000}, "100500 rows"),
    ],
)
def test_settings_out_of_range_are_refused(tmp_path, change, named) -> None:
    with pytest.raises(ValueError, match=named):
        write_dataset(tmp_path / "data", replace(SMALL, **change))
