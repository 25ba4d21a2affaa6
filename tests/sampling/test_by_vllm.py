"""The calls that vLLM gets, held by a stand-in: the package itself has not been run."""

from __future__ import annotations

import sys
from types import SimpleNamespace
from typing import Any

import pytest

from iwpo_fast.config import CandidateConfig, ModelConfig
from iwpo_fast.data.ragged import Ragged
from iwpo_fast.extras import NotInstalled
from iwpo_fast.sampling.by_vllm import draw_block, start_engine

PROMPTS = Ragged.from_rows([[5, 6], [7]])


class StandIn:
    """An engine that ends every other completion with token 2, and keeps what it was asked."""

    def __init__(self, **options: Any) -> None:
        self.options, self.asked = options, list[Any]()

    def generate(self, prompts: list[Any], parameters: list[Any], *, use_tqdm: bool) -> list[Any]:
        assert len(prompts) == len(parameters) and not use_tqdm
        self.asked += zip(prompts, parameters, strict=True)
        ended = SimpleNamespace(token_ids=[11, 12, 2], finish_reason="stop", cumulative_logprob=-3.5)
        cut = SimpleNamespace(token_ids=(13, 14, 15), finish_reason="length", cumulative_logprob=-4.0)
        return [SimpleNamespace(outputs=[output]) for output in (ended, cut)]


@pytest.fixture
def vllm(monkeypatch) -> SimpleNamespace:
    module = SimpleNamespace(LLM=StandIn, SamplingParams=lambda **options: options)
    monkeypatch.setitem(sys.modules, "vllm", module)
    return module


def test_vllm_gets_token_ids_and_a_seed_for_each_completion_and_its_end_is_cut_off(vllm) -> None:
    engine = start_engine(ModelConfig(path="folder", revision="main"), max_length=100, seed=4)
    assert engine.options == {
        "model": "folder",
        "load_format": "safetensors",
        "revision": "main",
        "trust_remote_code": False,
        "dtype": "bfloat16",
        "max_model_len": 100,
        "seed": 4,
        "generation_config": "vllm",
        "logprobs_mode": "processed_logprobs",
    }
    asked = CandidateConfig(per_prompt=1, temperature=0.7, top_p=0.9, max_new_tokens=3)
    draws = draw_block(engine, PROMPTS, asked, ends=[2, 3], seed=8)
    assert [tuple(draw) for draw in draws] == [([11, 12], True, -3.5, None, 2), ([13, 14, 15], False, -4.0, None, None)]
    assert [prompt for prompt, _ in engine.asked] == [{"prompt_token_ids": [5, 6]}, {"prompt_token_ids": [7]}]
    seeds = {parameters.pop("seed") for _, parameters in engine.asked}
    assert len(seeds) == 2
    common = {"temperature": 0.7, "top_p": 0.9, "max_tokens": 3, "stop_token_ids": [2, 3], "logprobs": 0}
    assert all(parameters == common | {"detokenize": False} for _, parameters in engine.asked)


def test_log_probs_of_the_model_are_known_where_the_sampler_changes_nothing(vllm) -> None:
    engine = start_engine(ModelConfig(path="folder", precision="fp32"), max_length=100, seed=4)
    assert engine.options["dtype"] == "float32"
    draws = draw_block(engine, PROMPTS, CandidateConfig(per_prompt=1), ends=[2], seed=8)
    assert [draw.log_model for draw in draws] == [-3.5, -4.0]


def test_without_the_package_it_is_one_sentence(monkeypatch) -> None:
    monkeypatch.setitem(sys.modules, "vllm", None)
    with pytest.raises(NotInstalled, match=r"candidates\.backend vllm needs vllm, which is not installed"):
        start_engine(ModelConfig(path="folder"), max_length=100, seed=4)
