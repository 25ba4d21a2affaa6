"""How the run was made: its stages, what they depend on, and versions."""

from __future__ import annotations

import json

from iwpo_fast.pipeline.stages import STAGES
from iwpo_fast.report.html import Html, folded, joined, paragraph, table, tag
from iwpo_fast.report.run_files import RunFiles

TITLE = "How it was made"
NEEDS = "prepare"


def body(run: RunFiles) -> Html:
    about = {name: run.manifest.about(name) for name in run.stages}
    rows = ([name, STAGES[name].WHAT, _state(run, name)] for name in run.stages)
    settings = {name: entry["settings"] for name, entry in about.items() if entry}
    versions = next(entry["versions"] for entry in about.values() if entry)
    named = ", ".join(f"{name} {version}" for name, version in versions.items())
    whole = json.dumps(settings, indent=2, sort_keys=True, ensure_ascii=False, default=str)
    return joined(
        [
            table(["stage", "what it does", "state"], rows, "text"),
            paragraph(f"Versions: {named}. CPU threads: {run.manifest.threads}."),
            folded("Settings of every stage, as the manifest has them", tag("pre", whole)),
        ]
    )


def _state(run: RunFiles, name: str) -> str:
    if run.done(name):
        return "done"
    return "at work, or stopped" if run.manifest.about(name) else "not begun"
