"""The page: verdict, figures, sections."""

from __future__ import annotations

import math
from collections.abc import Iterator
from importlib.resources import files

from iwpo_fast import __version__
from iwpo_fast.config import ObjectiveConfig
from iwpo_fast.objectives.words import objective_words
from iwpo_fast.report.html import Html, joined, note, tag
from iwpo_fast.report.numbers import count, interval, percent
from iwpo_fast.report.preferences import preferences
from iwpo_fast.report.run_files import RunFiles
from iwpo_fast.report.sections import SECTIONS, Section
from iwpo_fast.report.sections.weights import sample_sizes
from iwpo_fast.report.verdict import verdict
from iwpo_fast.words import several

POLICY = "default-src 'none'; style-src 'unsafe-inline'"
"""Nothing is loaded and nothing runs, whatever the texts of the data hold."""
HEAD = """<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta http-equiv="Content-Security-Policy" content="{policy}">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="color-scheme" content="light dark">
{title}
<style>{style}</style>
</head>
"""


def page(run: RunFiles) -> str:
    """The page of a run, the same bytes for the same run.

    Raises:
        Damaged: a file of the run is not what was written.
    """
    style = files("iwpo_fast.report").joinpath("style.css").read_text(encoding="utf-8")
    head = HEAD.format(policy=POLICY, title=tag("title", f"What the run {run.name} has done"), style=style)
    sections = (_section(run, name, section) for name, section in SECTIONS.items())
    main = tag("main", _top(run), _contents(), *sections, _foot())
    return f"{head}{tag('body', main)}\n</html>\n"


def _top(run: RunFiles) -> Html:
    figures = (tag("div", tag("b", value), tag("span", what)) for value, what in _figures(run))
    return tag(
        "header",
        tag("p", "iwpo run · ", tag("strong", run.name), class_="run"),
        tag("h1", verdict(run)),
        *made_of(run),
        tag("div", *figures, class_="figures"),
    )


def made_of(run: RunFiles) -> Iterator[Html]:
    """Model, objective and steps in one line, of a run that has trained."""
    if not run.done("train"):
        return
    settings, steps = run.manifest.about("train")["settings"], run.manifest.result("train")["steps"]
    optim = settings["optim"]
    parts = [
        f"model {settings['model']['path']}",
        f"objective {objective_words(ObjectiveConfig(**settings['objective']))}",
        f"learning rate {optim['lr']:g}",
        f"{several(steps, 'step')} of {several(optim['pairs_per_step'], 'pair')}",
    ]
    yield tag("p", " · ".join(parts), class_="run")


def _figures(run: RunFiles) -> Iterator[tuple[str, str]]:
    """The numbers that one looks for first."""
    if run.done("evaluate") and (found := preferences(run)):
        first = found[0]
        known = "" if math.isnan(first.low) else f", {interval(first.low, first.high)}"
        yield percent(first.after), f"held-out accuracy{known}"
        yield percent(first.before), "before training"
    if run.done("reference"):
        pairs = run.manifest.result("reference")["pairs"]
        yield count(pairs), f"labelled {'pair' if pairs == 1 else 'pairs'} learnt from"
    if run.done("reward"):
        yield percent(run.rewards()["total"]["accuracy"]), "of unseen labels agree with rewards"
    if run.done("weigh"):
        result = run.manifest.result("weigh")
        yield from sample_sizes(run)
        yield percent(result["mean_label_smoothing"]), "mean probability that a label is wrong"


def _contents() -> Html:
    links = (tag("a", section.TITLE, href=f"#{name}") for name, section in SECTIONS.items())
    return tag("nav", *links, aria_label="contents")


def _section(run: RunFiles, name: str, section: Section) -> Html:
    if run.done(section.NEEDS):
        inside = section.body(run)
    else:
        inside = note(f"The stage {section.NEEDS} has not been done yet: the same iwpo run goes on where it stopped.")
    return tag("section", tag("h2", section.TITLE), inside, id=name)


def _foot() -> Html:
    says = (
        f"Written by iwpo-fast {__version__}. The formulas of IWPO are this project's own, after a public abstract. "
        "This page loads nothing and runs nothing."
    )
    return tag("footer", joined([says]))
