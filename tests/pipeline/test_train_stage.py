"""What the training of a run depends on: the KL on drawn completions and the content of its prompts."""

from __future__ import annotations

import dataclasses
import json

from pipeline_cases import toy_config

from iwpo_fast.config import SampledKLConfig
from iwpo_fast.pipeline.stages import train


def test_a_stage_without_a_sampled_kl_has_the_settings_of_before() -> None:
    assert "sampled_kl" not in json.dumps(train.settings(toy_config()))


def test_the_content_of_the_prompts_is_a_setting(tmp_path) -> None:
    path = tmp_path / "prompts.jsonl"
    path.write_text('{"prompt": "one"}\n')
    config = toy_config(sampled_kl=SampledKLConfig(prompts=str(path)))
    before = train.settings(config)
    assert train.settings(config) == before and before["sampled_kl"]["every"] == 16
    path.write_text('{"prompt": "two"}\n')
    assert train.settings(config) != before
    other = dataclasses.replace(config, sampled_kl=SampledKLConfig(prompts=None))
    assert train.settings(other)["prompts"] == []
