"""What the reference costs a pipeline: each response of the data is run once, and resampling adds nothing."""

from __future__ import annotations

import pytest
from pipeline_cases import read_jsonl, stages_done, toy_config, write_toy_data

from iwpo_fast.config import WeightConfig
from iwpo_fast.data.batch import FlatBatch
from iwpo_fast.models import reference


def responses(rows: list[dict[str, str]]) -> set[tuple[str, str]]:
    return {(row["prompt"], row[side]) for row in rows for side in ("chosen", "rejected")}


@pytest.mark.slow
def test_every_response_is_run_once_by_the_reference_whatever_resampling_drew(place, monkeypatch) -> None:
    run, real = [], reference.flat_responses

    def recorded(found, rows) -> FlatBatch:
        run.extend((found.prompts[found.prompt_of[row]].tobytes(), found.completions[row].tobytes()) for row in rows)
        return real(found, rows)

    monkeypatch.setattr(reference, "flat_responses", recorded)
    write_toy_data()
    stages_done(toy_config(weights=WeightConfig(tau=2.0, gamma=2.0, realisation="resampling", force=True)))
    training, held_out = (read_jsonl(f"run/{name}.jsonl") for name in ("weights/train", "prepared/held_out"))
    assert {0.0, 1.0, 2.0} <= {row["weight"] for row in training}
    assert len(run) == len(set(run)) == len(responses(training) | responses(held_out)) < 2 * len(training + held_out)
