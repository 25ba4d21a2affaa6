"""The embedded example from data to report: generate, warm up, align, measure."""

from __future__ import annotations

import time
from dataclasses import asdict, dataclass, replace
from importlib import resources
from pathlib import Path
from textwrap import fill
from typing import Any

import numpy as np
import yaml
from jsonargparse import ArgumentParser
from transformers import AutoTokenizer, PreTrainedTokenizerBase

from iwpo_fast import __version__
from iwpo_fast.config import DataConfig, DemoConfig, ModelConfig, OptimConfig, TrainConfig
from iwpo_fast.data import read_rows, tokenise
from iwpo_fast.demo.folder import DemoFolder
from iwpo_fast.demo.generate import DatasetSettings, read_jsonl, write_dataset, write_jsonl
from iwpo_fast.demo.report import LEGEND, TaskResult, aligned, table, write_report
from iwpo_fast.demo.tasks import TASKS
from iwpo_fast.demo.warmup import warm_up
from iwpo_fast.evaluation.sampling import sample_completions
from iwpo_fast.files import written_aside
from iwpo_fast.models import load_policy
from iwpo_fast.models.reference import reference_logps
from iwpo_fast.objectives import Mixture
from iwpo_fast.training import train
from iwpo_fast.world import World

WARMUP = OptimConfig(lr=4e-3, epochs=2, pairs_per_step=32, tokens_per_batch=8192, warmup_fraction=0.05)
MAX_NEW_TOKENS = 40


def run_demo(
    config: DemoConfig, *, dataset: DatasetSettings | None = None, warmup: OptimConfig = WARMUP
) -> list[TaskResult]:
    """Make a preference data set, warm a tiny model up, align it with recipes/demo.yaml, and report what changed.

    The same call again keeps the finished parts, resumes the training, and measures anew.

    Args:
        config: where, on what device, and from which seed.
        dataset: size and noise of the data; its seed is replaced by that of `config`.
        warmup: length and learning rate of the supervised warm-up.

    Returns:
        The measurements of each task.

    Raises:
        ValueError: `output_dir` holds something else.
    """
    start = time.monotonic()
    folder = DemoFolder(Path(config.output_dir))
    dataset = replace(dataset or DatasetSettings(), seed=config.seed)
    recipe = _recipe()
    folder.open({"version": __version__, "dataset": asdict(dataset), "warmup": asdict(warmup), "recipe": recipe})
    training = _train_config(recipe, folder, config)

    _step(1, f"data: {dataset.train_pairs} training pairs, {dataset.eval_pairs} held out, of {len(TASKS)} tasks")
    if not folder.data.exists():
        write_dataset(folder.data, dataset)
    _step(2, "supervised warm-up of a tiny model on completions of mixed quality")
    if not folder.warmup.exists():
        text = DataConfig(
            path=str(folder.data / "warmup.jsonl"),
            columns={"chosen": "completion", "rejected": "other_completion"},
            max_length=training.data.max_length,
            eval_fraction=0.0,
            cache_dir=str(folder.cache),
        )
        model = replace(training.model, path="tiny")
        loss = warm_up(text, model, warmup, output=folder.warmup, seed=config.seed, device=config.device)
        print(f"warm-up ends at {loss:.3f} nats per token")
    _step(3, f"preference optimisation: {training.objective.name}, beta {Mixture.of(training.objective).beta}")
    train(training)
    _step(4, "measuring both models on held-out prompts")
    results = measure(folder, training)
    print("\n" + aligned(table(results)) + "\n\n" + fill(LEGEND, 100) + "\n")
    for what, place in _places(folder).items():
        print(f"{what + ':':<18}{place}")
    print(f"finished after {time.monotonic() - start:.0f} s")
    return results


def _recipe() -> dict[str, Any]:
    """recipes/demo.yaml as it is written."""
    text = (resources.files("iwpo_fast") / "recipes" / "demo.yaml").read_text(encoding="utf-8")
    recipe: dict[str, Any] = yaml.safe_load(text)
    return recipe


def _train_config(recipe: dict[str, Any], folder: DemoFolder, config: DemoConfig) -> TrainConfig:
    """The training of the recipe on the demo's own data and warm-up model."""
    places = {
        "path": str(folder.data / "train.jsonl"),
        "eval_path": str(folder.data / "eval.jsonl"),
        "cache_dir": str(folder.cache),
    }
    settings = recipe | {
        "data": recipe["data"] | places,
        "model": recipe["model"] | {"path": str(folder.warmup)},
        "output_dir": str(folder.training),
        "seed": config.seed,
        "device": config.device,
    }
    parser = ArgumentParser(exit_on_error=False)
    parser.add_argument("--config", type=TrainConfig)
    training: TrainConfig = parser.instantiate(parser.parse_object({"config": settings})).config
    return training


@dataclass(frozen=True)
class _Measured:
    """Log-probs [P, 2] of the held-out pairs and one completion for each of their prompts, under one model."""

    logps: np.ndarray
    completions: list[str]


def measure(folder: DemoFolder, training: TrainConfig) -> list[TaskResult]:
    """Compare the warm-up and the aligned model on the held-out prompts; writes the samples and the report."""
    rows = read_jsonl(folder.data / "eval.jsonl")
    before, after = (_measure(model, rows, training) for model in (folder.warmup, folder.aligned))
    log_ratios = after.logps.astype(np.float64) - before.logps
    margins = Mixture.of(training.objective).beta * (log_ratios[:, 0] - log_ratios[:, 1])
    samples = []
    for row, old, new in zip(rows, before.completions, after.completions, strict=True):
        task, prompt = TASKS[row["task"]], row["prompt"]
        gold = {"gold_before": task.gold_reward(prompt, old), "gold_after": task.gold_reward(prompt, new)}
        samples.append({"task": task.name, "prompt": prompt, "before": old, "after": new, **gold})
    with written_aside(folder.samples) as aside:
        write_jsonl(aside, samples)

    results = []
    for task in TASKS.values():
        mine = [i for i, row in enumerate(rows) if row["task"] == task.name]
        results.append(
            TaskResult(
                name=task.name,
                gold_gaps=np.array([rows[i]["gold_chosen"] - rows[i]["gold_rejected"] for i in mine]),
                margins=margins[mine],
                before=np.array([samples[i]["gold_before"] for i in mine]),
                after=np.array([samples[i]["gold_after"] for i in mine]),
                best=np.array([task.gold_reward(rows[i]["prompt"], task.best(rows[i]["prompt"])) for i in mine]),
            )
        )
    examples = [(s["prompt"], s["before"], s["after"]) for s in samples[: 2 * len(TASKS)]]
    write_report(folder.report, results, examples=examples, places=_places(folder))
    return results


def _measure(path: Path, rows: list[dict[str, Any]], training: TrainConfig) -> _Measured:
    world = World.start(training.device)
    tokenizer: PreTrainedTokenizerBase = AutoTokenizer.from_pretrained(path)
    data = replace(training.data, path=str(training.data.eval_path), eval_path=None, eval_fraction=0.0)
    pairs, _ = tokenise(read_rows(data).train, tokenizer, data)
    assert len(pairs) == len(rows), "the demo's pairs are whole and short, so none is dropped"
    policy = load_policy(ModelConfig(path=str(path)), tokenizer, seed=training.seed, device=world.device)
    reference = reference_logps(
        policy,
        pairs,
        policy.fingerprint(),
        tokens_per_batch=training.optim.tokens_per_batch,
        cache_dir=Path(str(training.data.cache_dir)),
        world=world,
    )
    prompts = [row["prompt"] for row in rows]
    with policy.plain_attention() as model:
        completions = sample_completions(model, tokenizer, prompts, max_new_tokens=MAX_NEW_TOKENS, seed=training.seed)
    return _Measured(reference.sequences, completions)


def _places(folder: DemoFolder) -> dict[str, Path]:
    return {
        "report": folder.report,
        "samples": folder.samples,
        "preference pairs": folder.data,
        "warm-up model": folder.warmup,
        "training run": folder.training,
        "aligned model": folder.aligned,
    }


def _step(number: int, what: str) -> None:
    print(f"\n[{number}/4] {what}", flush=True)
