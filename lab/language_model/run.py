"""The language-model level from end to end: train what is missing, compare, write JSON, Markdown and a plot."""

from __future__ import annotations

import json
import time
from collections.abc import Sequence
from dataclasses import asdict, replace
from datetime import date
from functools import partial
from pathlib import Path
from typing import Any

from transformers import AutoModelForCausalLM

import iwpo_fast
from lab import exact, experiment
from lab.language_model import plot, report
from lab.language_model.compare import BASELINE, compare
from lab.language_model.settings import FULL, OTHER_NOISE, SHORT, LabSettings, Plan, choice
from lab.language_model.simulate import laboratory
from lab.language_model.world import supervise

LIBRARY, HERE, EXACT = (Path(path).parent for path in (iwpo_fast.__file__, __file__, exact.__file__))
SOURCES = ("rewards", "importance", "objectives", "training", "demo", "models", "data")
NOISE = LabSettings().noise
MAKING_PATHS = ("settings.py", "world.py", "sampling.py", "rewards.py", "training.py", "simulate.py")


def main(arguments: Sequence[str]) -> Path:
    """Run the level, as far as the time allows; returns the path of the JSON."""
    options = _parse(arguments)
    facts = experiment.on_one_thread(options.commit)
    started = time.monotonic()
    plan = SHORT if options.short else FULL if options.noise == NOISE else OTHER_NOISE
    if options.choice is not None:
        plan = choice(json.loads(options.choice.read_text())["finalists"])
    settings = replace(plan.settings, noise=options.noise)
    parts = options.parts / parts_digest(settings)
    run = laboratory(settings, parts)
    jobs = plan.jobs()
    paths: dict[str, dict[int, Any]] = {}
    missing = []
    for number, (seed, arm) in enumerate(jobs, 1):
        path = parts / "paths" / f"{arm}-{seed}.json"
        is_new = not path.exists()
        if is_new and options.minutes is not None and time.monotonic() - started >= 60 * options.minutes:
            missing.append(f"{arm}, seed {seed}")
            continue
        paths.setdefault(arm, {})[seed] = experiment.kept(path, partial(run, seed, arm))
        if is_new:
            print(f"{time.monotonic() - started:6.0f} s  {number} of {len(jobs)}: {arm}, seed {seed}", flush=True)
    result = _result(plan, settings, supervise(settings, parts), paths)
    result |= {"environment": facts, "not_run": missing, "seconds": round(time.monotonic() - started, 1)}
    kind = "-choice" if options.choice is not None else "-short" * options.short
    noise = "" if options.noise == NOISE else f"-noise-{options.noise:g}"
    target = options.out / f"language-model{kind}{noise}.json"
    experiment.write(target, result, report.markdown(result))
    plot.draw(target)
    return target


def _result(plan: Plan, settings: LabSettings, supervised: Path, paths: dict[str, dict[int, Any]]) -> dict[str, Any]:
    comparisons = [
        compare(paths, arm, budgets)
        for budgets in (plan.budgets, *((budget,) for budget in plan.budgets))
        for arm in paths
        if paths[arm].keys() & paths[BASELINE].keys()
    ]
    model = AutoModelForCausalLM.from_pretrained(supervised, trust_remote_code=False)
    return {
        "schema": 1,
        "date": date.today().isoformat(),
        "settings": asdict(settings),
        "parameters": sum(p.numel() for p in model.parameters()),
        "budgets": plan.budgets,
        "comparisons": comparisons,
        "paths": paths,
    }


def parts_digest(settings: LabSettings) -> str:
    """Of the code and the settings behind what is trained, by which parts are found again."""
    files = [HERE / name for name in MAKING_PATHS]
    files += [file for folder in SOURCES for file in sorted((LIBRARY / folder).rglob("*.py"))]
    return experiment.digest([*files, EXACT / "arms.py", EXACT / "candidates.py", EXACT / "rewards.py"], settings)


def _parse(arguments: Sequence[str]) -> Any:
    parser = experiment.options("lab lm", __doc__, "iwpo-lab-language-model")
    parser.add_argument("--short", action="store_true", help="few arms and seeds, in minutes")
    parser.add_argument(
        "--choice", type=Path, help="train the finalists of this JSON of lab.exact.defaults, in seeds of their own"
    )
    parser.add_argument("--minutes", type=float, help="start no training after this time, and report what there is")
    parser.add_argument("--noise", type=float, default=NOISE, help="probability that a label is flipped")
    return parser.parse_args(arguments)
