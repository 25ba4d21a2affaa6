"""The short form of the suite: a few cases of each kind, none of which may be a fault; and its judge finds faults."""

from __future__ import annotations

import json
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest
import table
from children import Ended, run
from places import OUT, new_place, results, words
from suite import KINDS, outcome_of, without_places
from verdicts import FAULTS, Outcome, Verdict, judge
from wholes import Wholes

pytest.importorskip("jsonargparse", reason="the command iwpo needs it")
pytestmark = pytest.mark.slow

SHORT = {"kills": 3, "disks": 2, "damages": 5, "shared": 1, "ranks": 2}


@pytest.fixture(scope="module")
def wholes(tmp_path_factory) -> Iterator[Wholes]:
    yield Wholes(tmp_path_factory.mktemp("wholes"))


def test_every_kind_has_a_short_form() -> None:
    assert SHORT.keys() == KINDS.keys()


@pytest.mark.parametrize(
    ("kind", "number"), [(kind, number) for kind, count in SHORT.items() for number in range(count)]
)
def test_a_drawn_case_is_no_fault(wholes, kind, number) -> None:
    found = outcome_of(kind, 0, number, wholes)
    assert found.verdict not in FAULTS, found


def raise_something() -> None:
    raise KeyError("a bug")


def test_the_judge_tells_faults_of_every_kind(wholes, tmp_path) -> None:
    whole = wholes.whole("train")
    place = wholes.copy("train finished")
    good = Ended(0, "", 0.0)
    assert judge(good, place, whole.results, "").verdict == Verdict.SAME
    weights = place / OUT / "model" / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1] + b"\1")
    assert judge(good, place, whole.results, "") == Outcome(Verdict.DIFFERENT, "", "model/model.safetensors")
    weights.unlink()
    assert judge(good, place, whole.results, "").verdict == Verdict.DIFFERENT
    for ended, verdict in (
        (Ended(None, "", 0.0), Verdict.HANG),
        (Ended(-signal.SIGBUS, "", 0.0), Verdict.CRASH),
        (Ended(2, "", 0.0), Verdict.CRASH),
        (Ended(2, "iwpo: error: no room: make room.\nmore\n", 0.0), Verdict.CRASH),
        (Ended(1, "iwpo: error: no room: make room.\n", 0.0), Verdict.CRASH),
        (Ended(2, "said\niwpo: error: no room: make room.\n", 0.0), Verdict.SENTENCE),
    ):
        assert judge(ended, place, whole.results, "").verdict == verdict, ended
    failed = run(new_place(tmp_path / "place"), words("train"), raise_something)
    assert judge(failed, place, whole.results, "").verdict == Verdict.TRACEBACK


def test_numbers_of_metrics_are_compared_and_their_speed_is_not(wholes) -> None:
    whole, place = wholes.whole("train"), wholes.copy("train finished")
    metrics = place / OUT / "metrics.jsonl"
    content = metrics.read_text()
    metrics.write_text(content.replace('"perf/tokens_per_sec": ', '"perf/tokens_per_sec": 1'))
    assert metrics.read_text() != content and results(place) == whole.results
    metrics.write_text(content.replace('"grad_norm": ', '"grad_norm": 1'))
    assert results(place) != whole.results


def test_the_table_keeps_cases_of_earlier_parts_and_counts_faults(tmp_path: Path) -> None:
    facts = {"versions": {"torch": "2"}, "device": {"name": "a", "cores": 2}, "commit": "abc"}
    same, hang = {"verdict": "same bytes", "what": "a", "more": ""}, {"verdict": "hang", "what": "b", "more": "c"}
    path = tmp_path / "faults.json"
    for outcomes in ({"0": hang, "1": hang}, {"1": same, "2": same}):
        table.add(path, facts, "kills", {"how": "x", "seed": 0, "outcomes": outcomes, "seconds": 2.0})
    fuzz = {"how": "y", "seed": "fixed", "held": {"sentence": 7}, "outcomes": {}, "seconds": 1.0}
    table.add(path, facts, "data", fuzz)
    said = path.with_suffix(".md").read_text()
    assert "| kills | x | 0 | 3 | 2 | 0 | 0 | 0 | 0 | 1 | 0 | 4 |" in said and "- kills 0: hang: b" in said
    assert "| data | y | fixed | 7 | 0 | 0 | 7 | 0 | 0 | 0 | 0 | 1 |" in said and table.number_of_faults(fuzz) == 0
    assert table.number_of_faults(json.loads(path.read_text())["kinds"]["kills"]) == 1


def test_what_is_kept_of_a_case_names_no_folder_of_this_machine() -> None:
    said = 'no room at "/var/tmp-1/faults-a1_b/place-21/disk/x", nor in /t/faults-a/place-2: see /etc/faults'
    assert without_places(said) == 'no room at "place-21/disk/x", nor in place-2: see /etc/faults'
