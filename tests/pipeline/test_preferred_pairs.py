"""Preferred pairs from end to end: their rows, training on them, what they cost, and what is refused."""

from __future__ import annotations

import json
import math
import shutil
import signal
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

import matplotlib.image
import numpy as np
import pytest
import torch
from forked import HANG
from pipeline_cases import (
    DATA,
    STAGES,
    losses,
    read_jsonl,
    results,
    rows_of_four,
    run_and_be_killed,
    run_in_two_processes,
    stages_done,
    toy_config,
    write_jsonl,
    write_toy_data,
)
from safetensors.numpy import load_file
from scipy.special import expit

from iwpo_fast.cli import main
from iwpo_fast.config import (
    CandidateConfig,
    DataConfig,
    ModelConfig,
    ObjectiveConfig,
    OptimConfig,
    RewardConfig,
    RunConfig,
    TrainConfig,
    WeightConfig,
)
from iwpo_fast.data.unique import Responses
from iwpo_fast.models import reference
from iwpo_fast.pipeline.folder import PipelineFolder
from iwpo_fast.pipeline.job import PipelineJob
from iwpo_fast.pipeline.stages import weigh
from iwpo_fast.training import train
from iwpo_fast.world import World

WEIGHTED = Path("run/weights/train.jsonl")
POSTERIOR = WeightConfig(method="none", soft_labels="posterior", preferred_pairs=2)
SAMPLED = CandidateConfig(per_prompt=3, max_new_tokens=12, tokens_per_batch=400, top_p=0.9)
WHOLE = DataConfig(path=DATA, eval_fraction=0.2, max_length=96)


def config(**parts: Any) -> RunConfig:
    return toy_config(**({"weights": POSTERIOR, "candidates": SAMPLED} | parts))


def of_data(**parts: Any) -> RunConfig:
    """Candidates of the data alone, with their scores, which are reliable because labels follow them."""
    once = OptimConfig(lr=1e-3, max_steps=1)
    columns = RewardConfig(source="columns")
    return config(**({"data": WHOLE, "candidates": CandidateConfig(), "rewards": columns, "optim": once} | parts))


def job(settings: RunConfig) -> PipelineJob:
    return PipelineJob(settings, PipelineFolder(Path("run")), World(0, 1, torch.device("cpu")))


def drawn_rows() -> list[dict[str, Any]]:
    return [row for row in read_jsonl(WEIGHTED) if row.get("drawn")]


def sides(rows: list[dict[str, Any]]) -> set[tuple[str, str]]:
    """Prompts and texts of the responses of pairs."""
    return {(row["prompt"], row[side]) for row in rows for side in ("chosen", "rejected")}


def report() -> dict[str, Any]:
    return json.loads(Path("run/weights/report.json").read_text())


def by_texts(settings: RunConfig, values: np.ndarray) -> dict[tuple[str, str], Any]:
    """Values of all responses, by the texts of prompt and response."""
    training, tokenizer = job(settings), job(settings).load_tokenizer()
    responses = Responses.of(training.load_pairs())

    def text(ids: np.ndarray) -> str:
        return tokenizer.decode(ids, skip_special_tokens=True)

    keys = (
        (text(responses.prompts[responses.prompt_of[i]]), text(responses.completions[i])) for i in range(len(values))
    )
    return dict(zip(keys, values, strict=True))


@pytest.fixture(scope="session")
def with_samples(tmp_path_factory) -> Path:
    """A pipeline with sampled candidates and preferred pairs, and the responses its reference ran. To be read only."""
    place = tmp_path_factory.mktemp("preferred")
    run, real = [], reference.flat_responses

    def recorded(found: Responses, rows: np.ndarray) -> Any:
        run.extend((found.prompts[found.prompt_of[row]].tolist(), found.completions[row].tolist()) for row in rows)
        return real(found, rows)

    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(place)
        patch.setattr(reference, "flat_responses", recorded)
        write_toy_data()
        stages_done(config())
    (place / "responses.json").write_text(json.dumps(run))
    return place


@pytest.fixture
def again(with_samples, place) -> Path:
    """The same as the working folder."""
    shutil.copytree(with_samples, place, dirs_exist_ok=True)
    return place


@pytest.fixture
def four(place) -> Path:
    write_jsonl(DATA, rows_of_four())
    return place


@pytest.mark.slow
def test_drawn_pairs_stand_behind_the_labelled_ones_with_every_column(with_samples, monkeypatch) -> None:
    monkeypatch.chdir(with_samples)
    rows = read_jsonl(WEIGHTED)
    flags = [row["drawn"] for row in rows]
    labelled, drawn = flags.count(0), flags.count(1)
    assert flags == [0] * labelled + [1] * drawn
    assert len({frozenset(row) for row in rows}) == 1
    prepared = [row for row in read_jsonl("run/prepared/train.jsonl") if not row["prompt"].startswith("long")]
    texts = [[row[name] for name in ("prompt", "chosen", "rejected")] for row in rows]
    assert texts[:labelled] == [[row[name] for name in ("prompt", "chosen", "rejected")] for row in prepared]
    per_prompt = Counter(row["prompt"] for row in rows[labelled:])
    assert set(per_prompt.values()) == {2} and drawn == report()["preferred"]["pairs"] > 50
    result = json.loads(Path("run/manifest.json").read_text())["stages"]["weigh"]["result"]
    assert result["preferred_pairs"] == drawn and result["pairs"] == labelled


@pytest.mark.slow
def test_drawn_pairs_are_of_responses_to_their_prompt_with_its_scores_and_the_reliability_of_its_cluster(
    with_samples, monkeypatch
) -> None:
    monkeypatch.chdir(with_samples)
    scores = load_file("run/rewards/rewards.safetensors")
    of_text = by_texts(config(), scores["calibrated"])
    cluster_of = {row["prompt"]: row["cluster"] for row in read_jsonl(WEIGHTED) if not row["drawn"]}
    seen = set()
    for row in drawn_rows():
        assert row["chosen"] != row["rejected"]
        assert row["cluster"] == cluster_of[row["prompt"]]
        assert row["weight"] == scores["reliability"][row["cluster"]] > 0
        for side in ("chosen", "rejected"):
            if (row["prompt"], row[side]) in of_text:  # bytes that are no text decode to other ones
                seen.add(side)
                assert row[f"score_{side}"] == of_text[row["prompt"], row[side]]
            assert row[f"score_{side}"] == pytest.approx(np.mean(row[f"scores_{side}"]), abs=1e-9)
    assert seen == {"chosen", "rejected"}
    samples = {record["completion"] for record in read_jsonl("run/samples/candidates.jsonl")}
    assert sum(row["chosen"] in samples for row in drawn_rows()) > 10
    assert sum(row["rejected"] in samples for row in drawn_rows()) > 10


@pytest.mark.slow
def test_labels_of_drawn_pairs_are_the_odds_of_their_scores_and_of_the_evidence_of_labels(four) -> None:
    settings = of_data()
    stages_done(settings)
    rows = drawn_rows()
    labelled = sides([row for row in read_jsonl(WEIGHTED) if not row["drawn"]])
    flips = np.array([row["label_smoothing"] for row in rows])
    odds = expit([row["score_rejected"] - row["score_chosen"] for row in rows])
    free = np.array([not sides([row]) & labelled for row in rows])
    assert free.any() and not free.all()
    np.testing.assert_allclose(flips[free], odds[free], rtol=1e-12)
    assert np.abs(flips - odds)[~free].max() > 1e-3


@pytest.mark.slow
def test_every_response_is_run_once_by_the_reference_also_those_of_drawn_pairs(with_samples, monkeypatch) -> None:
    monkeypatch.chdir(with_samples)
    run = [tuple(map(tuple, found)) for found in json.loads(Path("responses.json").read_text())]
    responses = len(Responses.of(job(config()).load_pairs()))
    held_out = {
        (row["prompt"], row[side])
        for row in read_jsonl("run/prepared/held_out.jsonl")
        for side in ("chosen", "rejected")
    }
    assert len(run) == len(set(run)) == responses + sum(not prompt.startswith("long") for prompt, _ in held_out)


@pytest.mark.slow
def test_training_on_the_file_alone_is_the_training_of_the_pipeline(again) -> None:
    def alone(name: str, **data: Any) -> list[float]:
        settings = config()
        train(
            TrainConfig(
                data=replace(settings.data, path=str(WEIGHTED), eval_fraction=0.0, **data),
                model=ModelConfig(path="run/prepared/tiny"),
                **{part: getattr(settings, part) for part in ("objective", "optim", "log", "checkpoint", "device")},
                output_dir=name,
            )
        )
        return losses(name)

    assert alone("found", cache_dir="run/cache") == losses("run/train")
    # A pass of its own cuts other batches, whose sums are rounded otherwise.
    assert alone("computed", cache_dir="other") == pytest.approx(losses("run/train"), rel=1e-5)


@pytest.mark.slow
def test_training_runs_the_responses_itself_where_their_log_probs_are_not_known(again) -> None:
    before = losses("run/train")
    shutil.rmtree("run/cache/reference")
    assert stages_done(config(), only="train") == ["train"]
    assert losses("run/train") == pytest.approx(before, rel=1e-5)


@pytest.mark.slow
def test_the_second_call_does_nothing_and_other_draws_redo_weights_alone(again) -> None:
    before = results(again)
    assert stages_done(config()) == []
    for changed in ({"preferred_pairs": 1}, {"opponent": "importance"}, {"proposal_correction": 1.0}):
        assert stages_done(config(weights=replace(POSTERIOR, **changed)), only="weigh") == ["weigh"]
        assert results(again)["weights/train.jsonl"] != before["weights/train.jsonl"]
    assert stages_done(config(weights=WeightConfig(form="off")), only="weigh") == ["weigh"]
    assert not Path("run/weights/preferred.png").exists() and "preferred" not in report()
    assert stages_done(config()) == ["weigh"]  # training was of these pairs
    for name in ("weights/train.jsonl", "weights/report.json", "weights/preferred.png"):
        assert results(again)[name] == before[name]


@pytest.mark.slow
def test_a_lost_plot_is_made_again(again) -> None:
    before = results(again)
    Path("run/weights/preferred.png").unlink()
    assert stages_done(config()) == ["weigh"]
    assert results(again) == before
    assert matplotlib.image.imread("run/weights/preferred.png").shape == (330, 990, 4)


@pytest.mark.slow
def test_kills_between_the_files_end_in_the_same_bytes(again, with_samples, processes) -> None:
    moments = {
        "after the plot": ("iwpo_fast.pipeline.stages.weigh:save_json", 1),
        "before the rows": ("iwpo_fast.pipeline.stages.weigh:write_rows", 1),
        "before the log-probs are kept": ("iwpo_fast.pipeline.stages.train:keep_logps", 1),
        "after the log-probs are kept": ("iwpo_fast.pipeline.stages.train:train", 1),
    }
    Path("run/weights/report.json").unlink()
    shutil.rmtree("run/train")
    for moment, (target, call) in moments.items():
        process = processes.Process(target=run_and_be_killed, args=(again, target, call, config()))
        process.start()
        process.join(HANG)
        assert process.exitcode == -signal.SIGKILL, f"{moment}: {(again / 'said-0.txt').read_text()}"
    stages_done(config())
    assert results(again) == results(with_samples)


@pytest.mark.slow
@pytest.mark.parametrize("shard_over", [1, "all"])
def test_two_processes_draw_the_pairs_of_one(with_samples, place, processes, shard_over) -> None:
    shutil.copy2(with_samples / DATA, place)
    run_in_two_processes(place, processes, config(shard_over=shard_over))
    ours, theirs = (read_jsonl(folder / WEIGHTED) for folder in (place, with_samples))
    assert len(ours) == len(theirs)
    same = [sides([found]) == sides([expected]) for found, expected in zip(ours, theirs, strict=True)]
    assert np.mean(same) > 0.97  # a draw at the border of two candidates may fall to the other one
    assert losses(place / "run/train")[0] == pytest.approx(losses(with_samples / "run/train")[0], rel=1e-3)


@pytest.mark.slow
def test_the_command_draws_among_candidates_of_the_data(four, capsys) -> None:
    pytest.importorskip("jsonargparse", reason="the command iwpo needs it")
    sizes = {"vocab_size": 320, "hidden_size": 32, "layers": 1, "heads": 2}
    flags = [text for name, size in sizes.items() for text in (f"--model.tiny.{name}", str(size))]
    flags += ["--weights.form", "off", "--weights.soft_labels", "posterior", "--weights.preferred_pairs", "3"]
    flags += ["--weights.opponent", "importance", "--weights.relative_variance", "0.5", "--optim.max_steps", "1"]
    call = ["run", "--data.path", DATA, "--output_dir", "run", "--device", "cpu", "--data.eval_fraction", "0"]
    call += ["--rewards.source", "columns"]  # which are reliable, because labels follow them
    assert main([*call, *flags]) == 0
    said = capsys.readouterr().out
    assert "soft_labels posterior, preferred_pairs 3, relative_variance 0.5\n" in said
    assert "120 preferred pairs drawn" in said and "importance of a prompt is shared among" in said
    rows = drawn_rows()
    assert len(rows) == 3 * 40
    assert sides(rows) <= {(row["prompt"], text) for row in read_jsonl(DATA) for text in row["candidates"]}
    assert len(report()["preferred"]["beaten"]) <= 5
    labels = {(row["prompt"], row["chosen"]) for row in read_jsonl(WEIGHTED) if not row["drawn"]}
    for row in report()["preferred"]["beaten"]:
        assert (row["text"]["prompt"], row["text"]["rejected"]) in labels
        assert row["chosen_reward"] > row["rejected_reward"]


@pytest.mark.slow
def test_prompts_may_have_any_number_of_candidates(place) -> None:
    rows = rows_of_four()
    for i, row in enumerate(rows):
        kept = 2 + i % 3
        scored = sorted(zip(row["candidate_scores"], row["candidates"], strict=True), reverse=True)[:kept]
        row["candidate_scores"], row["candidates"] = map(list, zip(*scored, strict=True))
    write_jsonl(DATA, rows)
    stages_done(of_data())
    counts = Counter(row["prompt"] for row in drawn_rows())
    several = {row["prompt"] for row in read_jsonl("run/prepared/train.jsonl") if row.get("candidates")}
    assert counts == dict.fromkeys(several, 2), "two responses are a labelled pair already"


@pytest.mark.slow
def test_the_weight_that_the_data_give_a_prompt_is_that_of_its_drawn_pairs_too(place) -> None:
    given = {row["prompt"]: i % 3 for i, row in enumerate(rows_of_four())}
    write_jsonl(DATA, [row | {"weight": given[row["prompt"]]} for row in rows_of_four()])
    stages_done(of_data())
    reliability = load_file("run/rewards/rewards.safetensors")["reliability"]
    rows = drawn_rows()
    assert {given[row["prompt"]] for row in rows} == {1, 2}
    assert all(row["weight"] == given[row["prompt"]] * reliability[row["cluster"]] for row in rows)


@pytest.mark.slow
def test_only_prompts_of_three_responses_or_more_have_drawn_pairs_and_none_of_another_prompt(place) -> None:
    """Prompts of long answers are cut to their last token, which they share."""
    rows = rows_of_four()
    for row in rows[::2]:
        row["candidates"], row["candidate_scores"] = row["candidates"][:2], row["candidate_scores"][:2]
    for row in rows[::4]:
        row["candidates"] = [f"{answer} {' '.join(['so'] * 80)}" for answer in row["candidates"]]
    write_jsonl(DATA, rows)
    stages_done(of_data(data=replace(WHOLE, max_length=64, eval_fraction=0.0)))
    answers = {row["prompt"]: row["candidates"] for row in rows}
    drawn = drawn_rows()
    assert {len(answers[row["prompt"]]) for row in drawn} == {4}
    assert all({row["chosen"], row["rejected"]} <= set(answers[row["prompt"]]) for row in drawn)


@pytest.mark.slow
def test_labels_of_the_objective_stay_where_drawn_pairs_bring_a_column(four) -> None:
    settings = of_data(objective=ObjectiveConfig(label_smoothing=0.1))
    settings.weights = WeightConfig(preferred_pairs=1)
    stages_done(settings)
    assert {row["label_smoothing"] for row in read_jsonl(WEIGHTED) if not row["drawn"]} == {0.1}
    assert len({row["label_smoothing"] for row in drawn_rows()}) > 3
    settings.objective.label_smoothing = 0.2
    assert stages_done(settings) == STAGES[4:]
    assert {row["label_smoothing"] for row in read_jsonl(WEIGHTED) if not row["drawn"]} == {0.2}


@pytest.mark.slow
def test_counts_of_resampling_are_for_labelled_pairs_and_drawn_ones_keep_their_weight(again) -> None:
    weights = WeightConfig(tau=2.0, gamma=2.0, realisation="resampling", force=True, preferred_pairs=1)
    stages_done(config(weights=weights), only="weigh")
    assert {row["weight"] for row in read_jsonl(WEIGHTED) if not row["drawn"]} >= {0.0, 1.0}
    reliability = load_file("run/rewards/rewards.safetensors")["reliability"]
    assert all(row["weight"] == reliability[row["cluster"]] for row in drawn_rows())


@pytest.mark.slow
def test_rewards_that_know_nothing_leave_file_and_training_as_they_are_without_preferred_pairs(
    again, monkeypatch
) -> None:
    def unreliable(path: Path) -> dict[str, np.ndarray]:
        return (found := load_file(path)) | {"reliability": np.zeros_like(found["reliability"])}

    monkeypatch.setattr(weigh, "load_tensors", unreliable)
    made = []
    for weights in (POSTERIOR, replace(POSTERIOR, preferred_pairs=0), WeightConfig(form="off")):
        assert stages_done(config(weights=weights), start="weigh") == STAGES[4:]
        assert not Path("run/weights/preferred.png").exists()
        made.append((read_jsonl(WEIGHTED), losses("run/train")))
    assert made[0] == made[1]
    assert made[0][1] == made[2][1]  # plain DPO bitwise, because a label that alone counts is not softened


@pytest.mark.slow
def test_labels_alone_are_plain_dpo_bitwise(again) -> None:
    trained = []
    for weights in (replace(POSTERIOR, preferred_pairs=0, relative_variance=math.inf), WeightConfig(form="off")):
        stages_done(config(weights=weights))
        trained.append((losses("run/train"), Path("run/train/model/model.safetensors").read_bytes()))
    assert trained[0] == trained[1]


def test_settings_of_preferred_pairs_are_in_the_help(capsys) -> None:
    pytest.importorskip("jsonargparse", reason="the command iwpo needs it")
    with pytest.raises(SystemExit):
        main(["run", "--help"])
    said = capsys.readouterr().out
    assert all(f"--weights.{name} " in said for name in ("preferred_pairs", "opponent", "proposal_correction"))
