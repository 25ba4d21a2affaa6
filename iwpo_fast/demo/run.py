"""The embedded example from data to report: generate, warm up, align by DPO and by the parts of IWPO, measure."""

from __future__ import annotations

import json
import time
from dataclasses import asdict, replace
from importlib import resources
from pathlib import Path
from textwrap import fill
from typing import Any

import numpy as np
import yaml
from transformers import AutoTokenizer, PreTrainedTokenizerBase

from iwpo_fast import __version__
from iwpo_fast.command_config import DemoConfig
from iwpo_fast.config import DataConfig, ModelConfig, OptimConfig, RunConfig
from iwpo_fast.data import read_rows, tokenise
from iwpo_fast.demo.generate import DatasetSettings, read_jsonl, write_dataset, write_jsonl
from iwpo_fast.demo.report import SHORT_LEGEND, Measurement, aligned, comparisons, totals, write_report
from iwpo_fast.demo.tasks import TASKS
from iwpo_fast.demo.warmup import warm_up
from iwpo_fast.evaluation.arms import FIRST, OWN
from iwpo_fast.evaluation.sampling import sample_completions
from iwpo_fast.extras import needed
from iwpo_fast.files import check_folder, save_json, written_aside
from iwpo_fast.limits import check_limits
from iwpo_fast.models import load_policy
from iwpo_fast.models.reference import with_reference
from iwpo_fast.objectives import Mixture
from iwpo_fast.output_folder import Inside, OutputFolder, not_ours
from iwpo_fast.pipeline import run
from iwpo_fast.pipeline.arms import model_of
from iwpo_fast.pipeline.folder import PipelineFolder
from iwpo_fast.terminal import escaped
from iwpo_fast.world import World

WARMUP = OptimConfig(lr=4e-3, epochs=2, pairs_per_step=32, tokens_per_batch=8192, warmup_fraction=0.05)
MAX_NEW_TOKENS = 40

METHODS = {"DPO": FIRST, "weights": "weights", "labels": "labels", "both": "both", "sampled": OWN}
"""Arms of the pipeline, by the names that the report gives them. The run itself has what the default form sets, and
preferred pairs among sampled completions."""


def run_demo(
    config: DemoConfig, *, dataset: DatasetSettings | None = None, warmup: OptimConfig = WARMUP
) -> list[Measurement]:
    """Make a preference data set, warm a tiny model up, align it by DPO and by the parts of IWPO, and report.

    All methods are arms of one run of recipes/demo.yaml: they train on the same pairs, by rewards that are learnt once.
    The same call again keeps the finished parts, resumes what was interrupted, and measures anew.

    Args:
        config: where, on what device, and from which seed.
        dataset: size and noise of the data; its seed is replaced by that of `config`.
        warmup: length and learning rate of the supervised warm-up.

    Returns:
        The measurements of each task and method.

    Raises:
        ValueError: `output_dir` holds something else.
    """
    check_limits(config)
    check_folder("output_dir", Path(config.output_dir))
    start = time.monotonic()
    folder = Path(config.output_dir)
    dataset = replace(dataset or DatasetSettings(), seed=config.seed)
    recipe = _recipe()
    pipeline = _run_config(recipe, folder, config)
    _open(folder, {"version": __version__, "dataset": asdict(dataset), "warmup": asdict(warmup), "recipe": recipe})

    data, warm_model = folder / "data", folder / "warmup"
    _heading(1, f"data: {dataset.train_pairs} training pairs, {dataset.eval_pairs} held out, of {len(TASKS)} tasks")
    write_dataset(data, dataset)  # again where it is there, because nothing would see damage inside a text
    _heading(2, "supervised warm-up of a tiny model on completions of mixed quality")
    if not warm_model.exists():
        text = DataConfig(
            path=str(data / "warmup.jsonl"),
            columns={"chosen": "completion", "rejected": "other_completion"},
            max_length=pipeline.data.max_length,
            eval_fraction=0.0,
            cache_dir=pipeline.data.cache_dir,
        )
        model = replace(pipeline.model, path="tiny")
        loss = warm_up(text, model, warmup, output=warm_model, seed=config.seed, device=config.device)
        print(f"warm-up ends at {loss:.3f} nats per token")
    _heading(3, "IWPO, then DPO and each part of IWPO alone: rewards are learnt once, from the same pairs")
    run(pipeline)
    _heading(4, "measuring the models on held-out prompts")
    results = measure(folder, pipeline)
    sentences = "\n".join(fill(sentence, 80, subsequent_indent="  ") for sentence in comparisons(results))
    print("\n" + aligned(totals(results)) + "\n\n" + sentences + "\n\n" + fill(SHORT_LEGEND, 80) + "\n")
    for what, place in _places(folder).items():
        print(escaped(f"{what + ':':<19}{place}"))
    print(f"finished after {time.monotonic() - start:.0f} s")
    return results


def aligned_models(folder: Path) -> dict[str, Path]:
    """The models that a demo aligned, by method."""
    return {method: model_of(_pipeline(folder), arm) for method, arm in METHODS.items()}


class DemoFolder(OutputFolder):
    """Paths inside `output_dir`."""

    REPLACED = ("data", "warmup")

    record = Inside("demo.json")


def _pipeline(folder: Path) -> PipelineFolder:
    return PipelineFolder(folder / "iwpo")


def _open(folder: Path, settings: dict[str, Any]) -> None:
    """Make the folder, or check that a demo with the same settings made what is in it."""
    demo = DemoFolder(folder)
    demo.refuse_links()
    if demo.is_used and _recorded(demo.record) != json.loads(json.dumps(settings)):
        raise ValueError(
            f"output_dir {folder} holds a demo of another seed or version: delete it or choose another output_dir."
        )
    demo.take()
    save_json(demo.record, settings)


def _recorded(record: Path) -> Any:
    """The settings of the demo in a folder.

    Raises:
        ValueError: there is no demo in it, or its record is damaged.
    """
    if not record.exists():
        raise not_ours(record.parent, "demo")
    try:
        return json.loads(record.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ValueError(
            f"output_dir {record.parent} holds a demo whose {record.name} is damaged: delete the folder or choose "
            "another output_dir."
        ) from error


def _recipe() -> dict[str, Any]:
    """recipes/demo.yaml as it is written."""
    text = (resources.files("iwpo_fast") / "recipes" / "demo.yaml").read_text(encoding="utf-8")
    recipe: dict[str, Any] = yaml.safe_load(text)
    return recipe


def _run_config(recipe: dict[str, Any], folder: Path, config: DemoConfig) -> RunConfig:
    """The recipe on the demo's own data and warm-up model."""
    places = {
        "path": str(folder / "data" / "train.jsonl"),
        "eval_path": str(folder / "data" / "eval.jsonl"),
        "cache_dir": str(folder / "cache"),
    }
    settings = recipe | {
        "data": recipe["data"] | places,
        "model": recipe["model"] | {"path": str(folder / "warmup")},
        "output_dir": str(_pipeline(folder).path),
        "seed": config.seed,
        "device": config.device,
    }
    parser = needed("jsonargparse", by="the demo").ArgumentParser(exit_on_error=False)
    parser.add_argument("--config", type=RunConfig)
    pipeline: RunConfig = parser.instantiate(parser.parse_object({"config": settings})).config
    return pipeline


def measure(folder: Path, pipeline: RunConfig) -> list[Measurement]:
    """Compare the warm-up and the aligned models on the held-out prompts; writes the samples and the report."""
    rows = read_jsonl(folder / "data" / "eval.jsonl")
    before, texts_before = _logps_and_completions(folder / "warmup", rows, pipeline)
    after = {name: _logps_and_completions(model, rows, pipeline) for name, model in aligned_models(folder).items()}
    completions = {"before": texts_before} | {method: texts for method, (_, texts) in after.items()}
    samples = [_sample(row, {name: texts[i] for name, texts in completions.items()}) for i, row in enumerate(rows)]
    with written_aside(folder / "samples.jsonl") as aside:
        write_jsonl(aside, samples)

    beta = Mixture.of(pipeline.objective).beta
    log_ratios = {method: logps.astype(np.float64) - before for method, (logps, _) in after.items()}
    margins = {method: beta * (ratios[:, 0] - ratios[:, 1]) for method, ratios in log_ratios.items()}
    results = [
        _result(method, row, sample, float(margin))
        for method in margins
        for row, sample, margin in zip(rows, samples, margins[method], strict=True)
    ]
    examples = samples[: 2 * len(TASKS)]
    write_report(folder / "report.md", results, examples=examples, places=_places(folder))
    return results


def _result(method: str, row: dict[str, Any], sample: dict[str, Any], margin: float) -> Measurement:
    task, prompt = TASKS[row["task"]], row["prompt"]
    return {
        "task": task.name,
        "method": method,
        "gold_gap": row["gold_chosen"] - row["gold_rejected"],
        "margin": margin,
        "before": sample["gold_before"],
        "after": sample[f"gold_{method}"],
        "best": task.gold_reward(prompt, task.best(prompt)),
    }


def _sample(row: dict[str, Any], texts: dict[str, str]) -> dict[str, Any]:
    """A held-out prompt with the completion of each model, and their gold rewards."""
    task, prompt = TASKS[row["task"]], row["prompt"]
    gold = {f"gold_{name}": task.gold_reward(prompt, text) for name, text in texts.items()}
    return {"task": task.name, "prompt": prompt, **texts, **gold}


def _logps_and_completions(path: Path, rows: list[dict[str, Any]], training: RunConfig) -> tuple[np.ndarray, list[str]]:
    """Log-probs [P, 2] of the held-out pairs and one completion for each of their prompts, under one model."""
    world = World.start(training.device)
    tokenizer: PreTrainedTokenizerBase = AutoTokenizer.from_pretrained(path, trust_remote_code=False)
    data = replace(training.data, path=str(training.data.eval_path), eval_path=None, eval_fraction=0.0)
    pairs, _ = tokenise(read_rows(data)[0], tokenizer, data)
    assert len(pairs) == len(rows), "the demo's pairs are whole and short, so none is dropped"
    policy = load_policy(ModelConfig(path=str(path)), tokenizer, world, seed=training.seed)
    cache, budget = Path(str(training.data.cache_dir)), training.optim.tokens_per_batch
    pairs = with_reference(policy, pairs, world, cache, tokens_per_batch=budget)
    prompts = [row["prompt"] for row in rows]
    with policy.plain_attention() as model:
        completions = sample_completions(model, tokenizer, prompts, max_new_tokens=MAX_NEW_TOKENS, seed=training.seed)
    assert pairs.ref_logps is not None
    return pairs.ref_logps, completions


def _places(folder: Path) -> dict[str, Path]:
    return {
        "report": folder / "report.md",
        "samples": folder / "samples.jsonl",
        "preference pairs": folder / "data",
        "warm-up model": folder / "warmup",
        "IWPO": _pipeline(folder).path,
        "its arms": _pipeline(folder).arms,
        "weighted pairs": _pipeline(folder).weighted,
    }


def _heading(number: int, what: str) -> None:
    print(f"\n[{number}/4] {what}", flush=True)
