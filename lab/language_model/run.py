"""The language-model level from end to end: train what is missing, compare, write JSON, Markdown and a plot."""

from __future__ import annotations

import argparse
import hashlib
import json
import tempfile
import time
from collections.abc import Sequence
from dataclasses import asdict, replace
from datetime import date
from pathlib import Path
from typing import Any

import torch
from transformers import AutoModelForCausalLM

import iwpo_fast
from benchmarks import environment
from iwpo_fast.files import save_json
from lab.language_model import plot, report
from lab.language_model.compare import BASELINE, compare
from lab.language_model.plan import FULL, OTHER_WORLDS, SHORT, Plan
from lab.language_model.settings import LabSettings
from lab.language_model.simulate import Laboratory
from lab.language_model.world import supervise

RESULTS = Path(__file__).resolve().parents[1] / "results"
LIBRARY = Path(iwpo_fast.__file__).parent
SOURCES = ("rewards", "importance", "objectives", "training", "demo", "models", "data")
NORMAL = LabSettings()
MAKING_PATHS = ("settings.py", "world.py", "sampling.py", "rewards.py", "training.py", "simulate.py")


def main(arguments: Sequence[str]) -> Path:
    """Runs the level, as far as the time allows; returns the path of the JSON."""
    options = _parse(arguments)
    torch.set_num_threads(1)
    started = time.monotonic()
    usual = all(value == vars(NORMAL)[name] for name, value in _worlds(options).items())
    plan = SHORT if options.short else FULL if usual else OTHER_WORLDS
    settings = replace(plan.settings, **_worlds(options))
    parts = options.parts / _digest(settings)
    facts = environment.describe(torch.device("cpu"), options.commit)
    laboratory = Laboratory(settings, parts)
    jobs = plan.jobs()
    for number, (seed, arm) in enumerate(jobs, 1):
        path = parts / "paths" / f"{arm}-{seed}.json"
        seconds = time.monotonic() - started
        if not path.exists() and (options.minutes is None or seconds < 60 * options.minutes):
            save_json(path, laboratory.run(seed, arm))
            print(f"{time.monotonic() - started:6.0f} s  {number} of {len(jobs)}: {arm}, seed {seed}", flush=True)
    result = _result(plan, settings, parts, facts) | {"seconds": round(time.monotonic() - started, 1)}
    differing = [f"-{name}-{value:g}" for name, value in _worlds(options).items() if value != vars(NORMAL)[name]]
    name = "".join(["language-model", *differing, "-short" * options.short])
    target: Path = options.out / f"{name}.json"
    save_json(target, result)
    text = report.markdown(result)
    target.with_suffix(".md").write_text(text + "\n")
    plot.draw(target)
    print(text)
    return target


def _result(plan: Plan, settings: LabSettings, parts: Path, facts: dict[str, Any]) -> dict[str, Any]:
    paths: dict[str, dict[int, Any]] = {}
    missing = []
    for seed, arm in plan.jobs():
        path = parts / "paths" / f"{arm}-{seed}.json"
        if path.exists():
            paths.setdefault(arm, {})[seed] = json.loads(path.read_text())
        else:
            missing.append(f"{arm}, seed {seed}")
    comparisons = [
        compare(paths, arm, budgets).as_json()
        for budgets in (plan.budgets, *((budget,) for budget in plan.budgets))
        for arm in paths
        if paths[arm].keys() & paths[BASELINE].keys()
    ]
    model = AutoModelForCausalLM.from_pretrained(supervise(settings, parts))
    return {
        "schema": 1,
        "date": date.today().isoformat(),
        "environment": facts,
        "settings": asdict(settings),
        "parameters": sum(p.numel() for p in model.parameters()),
        "budgets": plan.budgets,
        "not_run": missing,
        "comparisons": comparisons,
        "paths": paths,
    }


def _worlds(options: Any) -> dict[str, float]:
    return {name: vars(options)[name] for name in ("noise", "length_bias")}


def _digest(settings: LabSettings) -> str:
    """Of the settings and the code that makes paths, so that parts of older code are not taken for results of this."""
    here = Path(__file__).parent
    files = [here / name for name in MAKING_PATHS]
    files += [file for folder in SOURCES for file in sorted((LIBRARY / folder).rglob("*.py"))]
    files += [here.parent / "exact" / name for name in ("arms.py", "rewards.py")]
    digest = hashlib.sha256(json.dumps(asdict(settings), sort_keys=True).encode())
    for file in files:
        digest.update(file.read_bytes())
    return digest.hexdigest()[:16]


def _parse(arguments: Sequence[str]) -> Any:
    parser = argparse.ArgumentParser(prog="python -m lab lm", description=__doc__)
    parser.add_argument("--short", action="store_true", help="few arms and seeds, in minutes")
    parser.add_argument("--out", type=Path, default=RESULTS, help="folder of JSON, Markdown and plot")
    parser.add_argument(
        "--parts",
        type=Path,
        default=Path(tempfile.gettempdir()) / "iwpo-lab-language-model",
        help="folder of what is trained; a run that was cut short goes on from there",
    )
    parser.add_argument("--minutes", type=float, help="start no training after this time, and report what there is")
    parser.add_argument("--noise", type=float, default=NORMAL.noise, help="probability that a label is flipped")
    parser.add_argument(
        "--length_bias", type=float, default=NORMAL.length_bias, help="log-odds per word that a completion is longer"
    )
    parser.add_argument("--commit", help="where git cannot tell")
    return parser.parse_args(arguments)
