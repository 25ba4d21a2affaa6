"""The README of a saved model: what was trained, on what, how, and what came of it, without a path of this machine."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import yaml

from iwpo_fast.config import DataConfig, TrainConfig
from iwpo_fast.evaluation.preference import ends_by_prompts, preference_accuracy
from iwpo_fast.models.trained import type_name
from iwpo_fast.objectives.words import objective_words
from iwpo_fast.paths import expanded
from iwpo_fast.training.about import About
from iwpo_fast.training.job import Job
from iwpo_fast.training.run_folder import settings_of
from iwpo_fast.training.summary import TrainSummary, rewards_of_kinds
from iwpo_fast.versions import version_of

NOTHING = About()
LOADERS = {True: ("peft", "AutoPeftModelForCausalLM"), False: ("transformers", "AutoModelForCausalLM")}
"""Library and class that load what was saved, by whether it is an adapter."""

PLACES = ("data.path", "model.path")
"""Settings that have a place of their own in the card."""


def model_card(job: Job, summary: TrainSummary, source: str, about: About = NOTHING) -> str:
    """The text of `README.md`; the same run writes the same bytes.

    Args:
        source: what the training rows were read from.
        about: on how they were made, where this library made them.
    """
    config, adapter = job.config, job.policy.saves_adapter
    base, data = _public(config.model.path), _named(source)
    library, loader = LOADERS[adapter]
    what = f"An adapter for `{base}`" if adapter else f"A model trained from `{base}`"
    types, path = config.types, "PATH"
    if types is not None:
        path = f"PATH/{type_name(0)}"
        what = f"{what}, for each of {types.count} types of annotators, in a folder of its own"
    versions = [f"{name} {version_of(name)}" for name in ("iwpo-fast", "torch", "transformers", "peft")]
    load = [f"from {library} import {loader}", "", f'model = {loader}.from_pretrained("{path}")']
    unusual = yaml.safe_dump(_unusual(config), sort_keys=True).splitlines()
    lines = [
        *("---", *yaml.safe_dump(_metadata(config, library), sort_keys=False).splitlines(), "---", ""),
        *(f"# {Path(config.output_dir).name}", ""),
        *(f"{what}, by preference pairs of `{data}`, with iwpo-fast.", ""),
        *((about.rows, "") if about.rows else ()),
        *(*_table(_facts(job, summary, data, about.held_out)), ""),
        *_results(summary),
        *("```python", *load, "```", ""),
        *("## Settings", "", "Those that are not the defaults:", "", "```yaml", *unusual, "```", ""),
        ", ".join(versions),
    ]
    return "\n".join(lines) + "\n"


def _metadata(config: TrainConfig, library: str) -> dict[str, Any]:
    """What the hub reads of a card; models and data of this machine are not there."""
    about: dict[str, Any] = {
        "library_name": library,
        "pipeline_tag": "text-generation",
        "tags": ["iwpo-fast", "preference-optimization", *_objectives(config)],
    }
    if not _is_local(config.model.path):
        about["base_model"] = config.model.path
    if _is_hub_id(config.data.path):
        about["datasets"] = [config.data.path]
    return about


def _facts(job: Job, summary: TrainSummary, data: str, none_held_out: str) -> list[tuple[str, str]]:
    config, pairs, weight = job.config, job.pairs, job.pairs.weight
    objective, optim = objective_words(config.objective), config.optim
    held_out = f"{summary.eval_pairs:,} held out" if summary.eval_pairs else none_held_out
    if config.sampled_kl is not None:
        objective += f", and {config.sampled_kl.coefficient:g} KL on completions of the policy's own"
    facts = [
        ("pairs", f"{len(pairs):,} of {data}, {pairs.tokens.sum():,} tokens; {held_out}"),
        ("objective", objective),
        ("steps", f"{summary.steps:,} of {optim.pairs_per_step} pairs, learning rate {optim.lr:g} ({optim.schedule})"),
    ]
    if config.checkpoint.best is not None and summary.after:
        best = f"that of step {summary.after['step']:.0f}, the best by {config.checkpoint.best}"
        facts.append(("model", best))
    if np.ptp(weight):
        size = weight.sum() ** 2 / (weight**2).sum() / len(weight)
        facts.append(("weights of pairs", f"{weight.min():.3g} to {weight.max():.3g}, effective size {size:.3f}"))
    smoothing = pairs.label_smoothing
    if smoothing is not None:
        facts.append(
            ("soft labels", f"a label is taken to be wrong with probability {smoothing.mean():.3g} on average")
        )
    return facts


def _results(summary: TrainSummary) -> list[str]:
    """Before and after on the held-out pairs; nothing where there are none."""
    if not summary.after:
        return []
    rows, compares = [], "eval_rewards/accuracies" in summary.after
    for when, metrics in (("before", summary.before), ("after", summary.after)):
        if metrics:
            cell = _accuracy(metrics, summary) if compares else rewards_of_kinds(metrics)
            rows.append(f"| {when} | {metrics['eval_loss']:.4f} | {cell} |")
    what = "held-out pairs, with 95 % intervals" if compares else "held-out rows"
    return [
        f"On {summary.eval_pairs:,} {what}:",
        "",
        f"| | loss | {'accuracy' if compares else 'rewards'} |",
        "|---|--:|--:|",
        *rows,
        "",
    ]


def _accuracy(metrics: Mapping[str, float], summary: TrainSummary) -> str:
    accuracy = metrics["eval_rewards/accuracies"]
    _, *ends = preference_accuracy(accuracy * summary.eval_pairs, summary.eval_pairs)
    low, high = ends_by_prompts(accuracy, summary.eval_prompts) if summary.eval_prompts else ends
    return f"{accuracy:.3f}" if math.isnan(low) else f"{accuracy:.3f} ({low:.3f} to {high:.3f})"


def _table(facts: Iterable[tuple[str, str]]) -> list[str]:
    return ["| | |", "|---|---|", *(f"| {name} | {what} |" for name, what in facts)]


def _objectives(config: TrainConfig) -> list[str]:
    name = config.objective.name
    names = [name] if isinstance(name, str) else sorted(name)
    return ["dpo" if each == "sigmoid" else each for each in names]


def _unusual(config: TrainConfig) -> dict[str, Any]:
    """Settings that what was trained depends on and that are not the defaults, by their dotted names."""
    plain = settings_of(TrainConfig(data=DataConfig(path=""))) | {"model.lora": None}
    return {
        name: _public(value)
        for name, value in settings_of(config).items()
        if name not in PLACES and plain.get(name) != value
    } | {"seed": asdict(config)["seed"]}


def _public(value: Any) -> Any:
    """The name alone of what lies on this machine, also in lists and mappings."""
    if isinstance(value, dict):
        return {name: _public(each) for name, each in value.items()}
    if isinstance(value, list):
        return [_public(each) for each in value]
    return Path(value).name if isinstance(value, str) and _is_local(value) else value


def _named(source: str) -> str:
    """What the rows were read from, several data sets each, without the folders in which files are."""
    return " and ".join(part if _is_hub_id(part) else Path(part).name for part in source.split(" and "))


def _is_local(value: str) -> bool:
    return value == "tiny" or value.startswith(("/", "~", ".")) or expanded(value).exists()


def _is_hub_id(path: object) -> bool:
    return isinstance(path, str) and path.count("/") == 1 and not _is_local(path) and "*" not in path
