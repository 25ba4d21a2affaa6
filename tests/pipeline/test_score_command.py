"""`iwpo score`: what it adds to files of every kind, and what it refuses."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
from pipeline_cases import DATA, read_jsonl, write_jsonl

pytest.importorskip("jsonargparse", reason="the command iwpo needs it")

from iwpo_fast.cli import main
from iwpo_fast.files import load_record, save_record
from iwpo_fast.rewards.reward_model import RewardModel

FOLDER = "run/rewards/reward_model"
WEIGHTED = "run/weights/train.jsonl"
ASK = [{"role": "user", "content": "say red"}]


def score(path: str, output: str, *flags: str) -> int:
    call = ["score", "--reward_model", FOLDER, "--data.path", path, "--output", output, "--device", "cpu"]
    return main([*call, *flags])


@pytest.mark.slow
def test_pairs_keep_their_columns_and_get_bitwise_the_scores_of_the_run(copied, capsys) -> None:
    weighted = read_jsonl(WEIGHTED)
    write_jsonl(
        "pairs.jsonl", [{name: row[name] for name in ("prompt", "chosen", "rejected", "weight")} for row in weighted]
    )
    assert score("pairs.jsonl", "out/scored.jsonl") == 0
    scored = read_jsonl("out/scored.jsonl")
    for name in ("prompt", "chosen", "rejected", "weight", "score_chosen", "score_rejected", "cluster"):
        assert [row[name] for row in scored] == [row[name] for row in weighted]
    spreads = [np.std(row["scores_chosen"]) for row in weighted]
    np.testing.assert_allclose([row["spread_chosen"] for row in scored], spreads)
    assert {p.name for p in Path("out").iterdir()} == {"scored.jsonl"}
    said = capsys.readouterr().out
    assert f"{len(weighted):,} rows are in out/scored.jsonl" in said
    assert said.count("scores are log-odds: compare them within a prompt\n") == 1
    flags = ["--data.path", "pairs.jsonl", "--output", "of_run.jsonl", "--device", "cpu"]
    assert main(["score", "--reward_model", "run", *flags]) == 0
    assert Path("of_run.jsonl").read_bytes() == Path("out/scored.jsonl").read_bytes()


@pytest.mark.slow
def test_parquet_and_the_cache_hold_the_same_scores(copied, monkeypatch) -> None:
    assert score(WEIGHTED, "scored.parquet", "--data.cache_dir", "cache") == 0
    table = pq.read_table("scored.parquet").to_pydict()
    assert table["score_chosen"] == [row["score_chosen"] for row in read_jsonl(WEIGHTED)]
    monkeypatch.setattr("iwpo_fast.rewards.features.run_batches", lambda *a: pytest.fail("the model ran again"))
    assert score("scored.parquet", "again.jsonl", "--data.cache_dir", "cache") == 0
    assert [row["score_rejected"] for row in read_jsonl("again.jsonl")] == table["score_rejected"]


@pytest.mark.slow
def test_single_completions_conversations_and_candidates_get_scores_of_their_own(copied) -> None:
    write_jsonl(
        "mixed.jsonl",
        [
            {"id": 1, "question": "say red\n", "completion": "red"},
            {"id": 2, "question": "say red\n", "candidates": ["red", "blue", ""]},
            {"id": 3, "question": "say red\n", "chosen": "red", "rejected": "blue"},
        ],
    )
    assert score("mixed.jsonl", "out.jsonl", "--data.columns", "{prompt: question}") == 0
    single, group, pair = read_jsonl("out.jsonl")
    assert list(single) == ["id", "question", "completion", "cluster", "score", "spread"]
    assert len(group["scores"]) == len(group["spreads"]) == 3 and "score" not in group
    assert single["score"] == group["scores"][0] == pair["score_chosen"]
    assert group["scores"][1] == pair["score_rejected"] and single["cluster"] == pair["cluster"]

    write_jsonl("chats.jsonl", [{"messages": [*ASK, {"role": "assistant", "content": "red"}]}])
    assert score("chats.jsonl", "chats-out.jsonl") == 0
    assert np.isfinite(read_jsonl("chats-out.jsonl")[0]["score"])


@pytest.mark.slow
def test_single_completions_of_which_none_is_there_twice_are_scored(copied) -> None:
    write_jsonl("single.jsonl", [{"prompt": f"say {word}\n", "completion": word} for word in ("red", "blue")])
    assert score("single.jsonl", "out.jsonl") == 0
    assert all(np.isfinite(row["score"]) for row in read_jsonl("out.jsonl"))


def test_rows_that_are_too_long_are_kept_without_a_score_and_counted(copied, capsys) -> None:
    rows = [{"prompt": "say\n", "candidates": ["red", "blue " * 200]}, {"prompt": "say\n", "completion": "red " * 200}]
    write_jsonl("long.jsonl", rows)
    assert score("long.jsonl", "out.jsonl") == 0
    group, single = read_jsonl("out.jsonl")
    assert group["scores"][0] is not None and group["scores"][1] is None and group["cluster"] is not None
    assert single["score"] is None and single["cluster"] is None
    assert "2 completions have no score: they are too long" in capsys.readouterr().out


@pytest.mark.slow
def test_long_candidates_of_a_prompt_are_cut_to_one_prompt(copied) -> None:
    record = load_record(Path(FOLDER, "reward_model.json"))
    record["tokens"] |= {"max_length": 24, "truncation": "truncate_prompt_left"}
    save_record(Path(FOLDER, "reward_model.json"), record)
    prompt = "say " + "red " * 30 + "\n"
    write_jsonl("long.jsonl", [{"prompt": prompt, "candidates": ["cold cold cold", "blue", "red"]}])
    assert score("long.jsonl", "out.jsonl") == 0
    alone = RewardModel.load(FOLDER).score([prompt], ["red"], device="cpu").score[0]
    assert abs(read_jsonl("out.jsonl")[0]["scores"][2] - alone) > 1e-6


REFUSED = [
    (["--output", DATA], "output and data.path are both pairs.jsonl"),
    (["--output", "./run/../pairs.jsonl"], "and the input would be lost: choose another output"),
    (["--output", "out.csv"], "output is out.csv: give a file that ends in .jsonl or .parquet"),
    (["--output", "folder.jsonl"], "output is folder.jsonl, which is a folder"),
    (["--reward_model", "absent"], "absent holds no reward model"),
    (["--data.path", "absent.jsonl"], "data.path absent.jsonl is not there"),
    (["--data.columns", "{prompt: absent}"], "data.columns names 'absent' as prompt, which pairs.jsonl does not have"),
    (["--data.columns", "{weight: prompt}"], "data.columns names 'weight', which means nothing here: use prompt"),
    (["--tokens_per_batch", "0"], "tokens_per_batch is 0: it must be positive"),
    (["--language_model", "absent"], "reads features of the language model absent, which cannot be loaded"),
    (["--data.max_length", "9"], "unknown setting data.max_length: iwpo score --help lists them"),
]


@pytest.mark.slow
@pytest.mark.parametrize(("flags", "sentence"), REFUSED, ids=[" ".join(flags) for flags, _ in REFUSED])
def test_what_cannot_be_is_one_sentence_and_nothing_is_lost(copied, capsys, flags, sentence) -> None:
    Path("folder.jsonl").mkdir()
    before = Path(DATA).read_bytes()
    assert score(DATA, "out.jsonl", *flags) == 2
    said = [line for line in capsys.readouterr().err.splitlines() if line.startswith("iwpo")]
    assert len(said) == 1 and said[0].startswith("iwpo: error: ") and sentence in said[0]
    assert Path(DATA).read_bytes() == before and not Path("out.jsonl").exists()


@pytest.mark.slow
def test_a_damaged_record_is_one_sentence(copied, capsys) -> None:
    path = Path(FOLDER, "reward_model.json")
    record = load_record(path)
    del record["tokens"]["truncation"]
    save_record(path, record)
    assert score(DATA, "out.jsonl") == 2
    assert f"The reward model in {copied / FOLDER} is damaged" in capsys.readouterr().err


@pytest.mark.slow
def test_a_missing_argument_is_named(copied, capsys) -> None:
    assert main(["score", "--data.path", DATA, "--output", "out.jsonl"]) == 2
    assert "reward_model is missing: give --reward_model" in capsys.readouterr().err
