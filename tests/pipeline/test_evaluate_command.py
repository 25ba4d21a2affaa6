"""`iwpo evaluate`: what it measures of models, what it writes, and what it refuses."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from pipeline_cases import DATA, WORDS, read_jsonl, toy_config, write_jsonl
from safetensors.numpy import load_file
from transformers import AutoModelForCausalLM, AutoTokenizer, LlamaConfig, LlamaForSequenceClassification

pytest.importorskip("jsonargparse", reason="the command iwpo needs it")

from iwpo_fast.cli import main
from iwpo_fast.config import LoraConfig
from iwpo_fast.rewards.reward_model import RewardModel
from iwpo_fast.training import train

HELD_OUT = "run/prepared/held_out.jsonl"
BASE = "run/prepared/tiny"
JUDGE = "run/rewards/reward_model"
FEW = ["--answers.max_new_tokens", "6", "--max_length", "96", "--resamples", "100", "--device", "cpu"]
NO_ANSWERS = ["--answers.per_prompt", "0"]


def evaluate(*flags: str, output: str = "out.json") -> dict[str, Any]:
    assert main(["evaluate", "--model", "run", "--output", output, *FEW, *flags]) == 0
    report: dict[str, Any] = json.loads(Path(output).read_text())
    return report


@pytest.fixture
def rewardbench(copied: Path) -> Path:
    """RewardBench 2 with rows of our own, in the finished pipeline."""
    rows = [of_two(str(i), "Math", ["red"], ["blue", "cold", "calm calm"]) for i in range(3)]
    rows += [of_two(f"ref:{i}", "Ties", ["red"], ["cold", "calm"]) for i in range(2)]
    rows += [of_two(f"tied:{i}", "Ties", ["red", "blue"], ["cold", "calm"]) for i in range(2)]
    write_jsonl("rewardbench.jsonl", rows)
    return copied


def of_two(name: str, subset: str, chosen: list[str], rejected: list[str]) -> dict[str, Any]:
    return {"id": name, "prompt": f"say {name}", "chosen": chosen, "rejected": rejected, "subset": subset}


@pytest.mark.slow
def test_accuracy_and_margins_are_those_of_the_run_with_intervals(copied, capsys) -> None:
    report = evaluate("--against", BASE, "--data.path", HELD_OUT, "--reward_model", JUDGE, *NO_ANSWERS)
    of_run = load_file("run/evaluation/margins.safetensors")
    held_out = report["held_out"]
    overall = json.loads(Path("run/evaluation/evaluation.json").read_text())
    assert held_out["pairs"] == overall["all"]["pairs"] and held_out["left_out"] == 0
    assert held_out["log_ratio"]["accuracy"]["value"] == pytest.approx(overall["all"]["accuracy"])
    assert held_out["log_ratio"]["margin"]["value"] == pytest.approx(of_run["margin"].mean(), abs=1e-5)
    for cluster in np.unique(of_run["cluster"]):
        found, own = held_out["by_cluster"][str(cluster)], of_run["margin"][of_run["cluster"] == cluster]
        assert found["pairs"] == len(own) and found["margin"]["value"] == pytest.approx(own.mean(), abs=1e-5)
    accuracy = held_out["log_ratio"]["accuracy"]
    assert accuracy["low"] <= accuracy["value"] <= accuracy["high"]
    assert sum(bucket["pairs"] for bucket in held_out["by_score"].values()) == held_out["pairs"]
    assert len(held_out["by_score"]) == 4 and "wins" not in report and "answers" not in report
    said = capsys.readouterr().out.splitlines()
    assert max(map(len, said)) <= 80 and "all numbers are in out.json" in said


@pytest.mark.slow
def test_calibration_error_follows_beta(copied) -> None:
    flags = ("--against", BASE, "--data.path", HELD_OUT, *NO_ANSWERS)
    small, large = (evaluate(*flags, "--beta", beta)["held_out"]["log_ratio"] for beta in ("0.1", "100"))
    assert large["margin"]["value"] == pytest.approx(1000 * small["margin"]["value"], rel=1e-4)
    assert large["accuracy"] == small["accuracy"]
    assert large["calibration_error"]["value"] > small["calibration_error"]["value"]


@pytest.mark.slow
def test_without_a_reference_margins_are_of_mean_log_probs_and_scores_those_of_the_data(copied) -> None:
    rows = [row | {"score_chosen": i % 5, "score_rejected": 0.0} for i, row in enumerate(read_jsonl(HELD_OUT))]
    write_jsonl("scored.jsonl", rows)
    held_out = evaluate("--data.path", "scored.jsonl", *NO_ANSWERS)["held_out"]
    assert "log_ratio" not in held_out and held_out["mean_log_prob"].keys() == {"model"}
    assert held_out["by_cluster"] == {} and sum(of["pairs"] for of in held_out["by_score"].values()) == len(rows)
    model = AutoModelForCausalLM.from_pretrained("run/train/model").eval()
    tokenizer = AutoTokenizer.from_pretrained("run/train/model")
    margins = [
        mean_logp(model, tokenizer, row, "chosen") - mean_logp(model, tokenizer, row, "rejected") for row in rows
    ]
    assert held_out["mean_log_prob"]["model"]["margin"]["value"] == pytest.approx(np.mean(margins), abs=1e-4)


def mean_logp(model: Any, tokenizer: Any, row: dict[str, Any], side: str) -> float:
    prompt = tokenizer(row["prompt"])["input_ids"]
    ids = torch.tensor([tokenizer(row["prompt"] + row[side])["input_ids"] + [tokenizer.eos_token_id]])
    with torch.no_grad():
        logps = model(ids).logits[0, :-1].log_softmax(-1).gather(1, ids[0, 1:, None])[:, 0]
    return float(logps[len(prompt) - 1 :].mean())


@pytest.mark.slow
def test_answers_are_judged_probed_and_written_in_alpaca_evals_format(copied) -> None:
    flags = ("--against", BASE, "--data.path", HELD_OUT, "--reward_model", JUDGE, "--answers.prompts", "5")
    report = evaluate(*flags, "--answers.per_prompt", "2", "--answers.temperature", "1.5")
    wins = report["wins"]
    mine, theirs = (json.loads(Path(name).read_text()) for name in ("out-answers.json", "out-against-answers.json"))
    assert wins["comparisons"] == len(mine) == len(theirs) == 10 and wins["beside"] == "those of tiny"
    assert [one["instruction"] for one in mine] == [one["instruction"] for one in theirs]
    assert {one["generator"] for one in mine} == {"run"} and {one["generator"] for one in theirs} == {"tiny"}
    judge = RewardModel.load(JUDGE)
    scores = [
        judge.score([one["instruction"] for one in of], [one["output"] for one in of], device="cpu").score
        for of in (mine, theirs)
    ]
    gap = scores[0] - scores[1]
    assert wins["win_rate"]["value"] == pytest.approx(np.mean((gap > 0) + 0.5 * (gap == 0)))
    assert wins["score_difference"]["value"] == pytest.approx(gap.mean(), abs=1e-5)
    assert wins["characters"]["value"] == np.mean([len(one["output"]) for one in mine])
    for name in ("model", "against"):
        of = report["answers"][name]
        assert of["answers"] == 10 and 0 < of["tokens"]["value"] <= 6 and 0 <= of["ended"]["value"] <= 1


@pytest.mark.slow
def test_without_another_model_answers_are_compared_with_the_chosen_ones(copied) -> None:
    report = evaluate("--data.path", HELD_OUT, "--reward_model", JUDGE, "--answers.prompts", "4")
    assert report["wins"]["beside"] == "the chosen ones of the data"
    chosen = [len(row["chosen"]) for row in {row["prompt"]: row for row in read_jsonl(HELD_OUT)[::-1]}.values()][::-1][
        :4
    ]
    assert report["wins"]["characters_of_others"]["value"] == np.mean(chosen)


@pytest.mark.slow
@pytest.mark.parametrize("modules", ["all-linear", ["q_proj", "lm_head"]])
def test_an_adapter_is_the_model_that_it_was_trained_to(modules, copied) -> None:
    config = toy_config(output_dir="lora")
    config.model.path, config.model.lora, config.optim.lr = BASE, LoraConfig(rank=4, target_modules=modules), 0.05
    train(config)
    assert Path("lora/model/adapter_config.json").exists()
    flags = ("--against", BASE, "--data.path", HELD_OUT, *NO_ANSWERS, "--model", "lora")
    found = evaluate(*flags)["held_out"]["log_ratio"]
    said = [line for line in read_jsonl("lora/metrics.jsonl") if "eval_rewards/margins" in line]
    assert found["margin"]["value"] == pytest.approx(said[-1]["eval_rewards/margins"], abs=1e-4)
    assert abs(found["margin"]["value"]) > 5e-3


@pytest.mark.slow
def test_rewardbench_is_scored_by_the_models_rewards_and_by_the_judge(rewardbench, capsys) -> None:
    flags = ("--rewardbench", "rewardbench.jsonl", "--reward_model", JUDGE)
    report = evaluate("--against", BASE, *flags)
    assert report.keys() == {"model", "against", "settings", "rewardbench"}
    for of in report["rewardbench"].values():
        assert of["version"] == 2 and of["subsets"].keys() == {"Math", "Ties"}
        assert of["subsets"]["Math"]["prompts"] == 3 and of["subsets"]["Math"]["left_out"] == 0
        means = [of["subsets"]["Math"]["accuracy"]["value"], of["subsets"]["Ties"]["score"]]
        assert of["mean"] == pytest.approx(np.mean(means))
    said = capsys.readouterr().out
    assert "RewardBench 2, by implicit reward" in said and "RewardBench 2, by reward model" in said


@pytest.mark.slow
def test_a_sequence_classifier_judges_too(rewardbench) -> None:
    tokenizer = AutoTokenizer.from_pretrained(BASE)
    torch.manual_seed(0)
    shape = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=1,
        num_attention_heads=2,
        num_labels=1,
        pad_token_id=tokenizer.pad_token_id,
    )
    LlamaForSequenceClassification(shape).save_pretrained("classifier")
    tokenizer.save_pretrained("classifier")
    flags = ("--data.path", HELD_OUT, "--reward_model", "classifier", "--rewardbench", "rewardbench.jsonl")
    report = evaluate(*flags, "--answers.prompts", "3")
    assert report["wins"]["comparisons"] == 3 and report["held_out"]["by_cluster"] == {}
    assert len(report["held_out"]["by_score"]) == 4
    assert report["rewardbench"]["reward_model"]["subsets"]["Math"]["accuracy"]["value"] is not None


@pytest.mark.slow
def test_alpaca_evals_instructions_and_mt_benchs_questions_are_answered(copied) -> None:
    Path("alpaca.json").write_text(json.dumps([{"dataset": "vicuna", "instruction": f"say {word}"} for word in WORDS]))
    questions = [
        {"question_id": 81, "category": "writing", "turns": ["say red", "say blue"]},
        {"question_id": 111, "category": "math", "turns": ["1 + 1", "2 + 2"]},
    ]
    write_jsonl("question.jsonl", questions)
    flags = ("--alpaca_eval", "alpaca.json", "--mt_bench", "question.jsonl")
    evaluate(*flags)
    outputs = json.loads(Path("out-alpaca_eval.json").read_text())
    assert [one["instruction"] for one in outputs] == [f"say {word}" for word in WORDS]
    assert {one["dataset"] for one in outputs} == {"vicuna"} and any(one["output"] for one in outputs)
    lines = read_jsonl("out-mt_bench.jsonl")
    assert [line["question_id"] for line in lines] == [81, 111]
    assert all(len(line["choices"][0]["turns"]) == 2 for line in lines)
    again = evaluate(*flags, output="again.json")
    assert json.loads(Path("again-alpaca_eval.json").read_text()) == outputs and again["model"] == "run"


@pytest.mark.slow
def test_pairs_that_are_too_long_are_left_out_and_counted(copied, capsys) -> None:
    rows = read_jsonl(HELD_OUT)
    long = {"prompt": "say red\n", "chosen": "blue " * 200, "rejected": "red"}
    write_jsonl("long.jsonl", [*rows, long])
    held_out = evaluate("--data.path", "long.jsonl", *NO_ANSWERS)["held_out"]
    assert (held_out["pairs"], held_out["left_out"]) == (len(rows), 1)
    assert f"held-out pairs: {len(rows)} of" in capsys.readouterr().out


REFUSED = [
    (["--model", "absent"], "model absent is neither a folder with a tokenizer nor the id"),
    (["--model", "tiny"], "model is tiny, which has random weights"),
    (["--against", "absent"], "against absent is neither a folder"),
    (["--output", "out.csv"], "output is out.csv: give the name of a file that ends in .json"),
    (["--output", "folder.json"], "output is folder.json, which is a folder"),
    (["--alpaca_eval", "out-alpaca_eval.json"], "is to be read and would be written over: choose another output"),
    (["--data.path", "absent.jsonl"], "data.path absent.jsonl is not there"),
    (["--rewardbench", DATA], "row 1 has no subset: give a file of RewardBench"),
    (["--mt_bench", DATA], "row 1 has no list of texts as its turns"),
    (["--alpaca_eval", DATA], "row 1 has no instruction"),
    (["--answers.max_new_tokens", "96"], "leaves no room for a prompt"),
    (["--answers.temperature", "-1"], "answers.temperature is -1.0: it must be positive"),
    (["--reward_model", "run/rewards"], "reward_model run/rewards is neither a folder with a sequence classifier"),
    (["--reward_model", "run/train/model"], "reward_model run/train/model has 2 labels: give a reward model with one"),
    (["--language_model", BASE], "language_model is what a reward model reads"),
    (["--resamples", "9"], "resamples is 9: it must be"),
]


@pytest.mark.slow
@pytest.mark.parametrize(("flags", "sentence"), REFUSED, ids=[" ".join(flags) for flags, _ in REFUSED])
def test_what_cannot_be_is_one_sentence_and_nothing_is_lost(copied, capsys, flags, sentence) -> None:
    Path("folder.json").mkdir()
    Path("out-alpaca_eval.json").write_text('[{"instruction": "say"}]')
    call = ["evaluate", "--model", "run", "--output", "out.json", "--data.path", HELD_OUT, *FEW, *flags]
    assert main(call) == 2
    said = [line for line in capsys.readouterr().err.splitlines() if line.startswith("iwpo")]
    assert len(said) == 1 and said[0].startswith("iwpo: error: ") and sentence in said[0]
    assert not Path("out.json").exists() and "say" in Path("out-alpaca_eval.json").read_text()


def test_there_has_to_be_something_to_evaluate_on(copied, capsys) -> None:
    assert main(["evaluate", "--model", "run", "--output", "out.json"]) == 2
    assert "There is nothing to evaluate on: give data.path" in capsys.readouterr().err


@pytest.mark.slow
def test_turns_need_a_chat_template(copied, capsys) -> None:
    shutil.copytree("run/train/model", "plain")
    for name in ("chat_template.jinja", "checksums.json"):
        Path("plain", name).unlink(missing_ok=True)
    settings = Path("plain/tokenizer_config.json")
    record = json.loads(settings.read_text())
    record.pop("chat_template", None)
    settings.write_text(json.dumps(record))
    write_jsonl("question.jsonl", [{"question_id": 81, "category": "writing", "turns": ["say red"]}])
    call = ["evaluate", "--model", "plain", "--output", "out.json", "--mt_bench", "question.jsonl", *FEW]
    assert main(call) == 2
    assert "mt_bench asks in turns and model" in capsys.readouterr().err
