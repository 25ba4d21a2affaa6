"""Sampling by vLLM, which makes its own batches. Tested with a stand-in alone; it has not run on the package itself."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from iwpo_fast.config import CandidateConfig, ModelConfig
from iwpo_fast.data.ragged import Ragged
from iwpo_fast.extras import needed
from iwpo_fast.models.pretrained import model_location
from iwpo_fast.models.saved_files import check_saved
from iwpo_fast.sampling.blocks import Draw


def start_engine(model: ModelConfig, *, max_length: int, seed: int) -> Any:
    """An engine with the model as it is before training, in bfloat16 unless `model.precision` is fp32."""
    vllm = needed("vllm", by="candidates.backend vllm")
    check_saved(Path(model_location(model.path)), "model.path", weights=True)
    return vllm.LLM(
        model=model_location(model.path),
        load_format="safetensors",
        revision=model.revision,
        trust_remote_code=model.trust_remote_code,
        dtype="float32" if model.precision == "fp32" else "bfloat16",
        max_model_len=max_length,
        seed=seed,
        generation_config="vllm",
        logprobs_mode="processed_logprobs",
    )


def draw_block(
    engine: Any, prompts: Ragged, settings: CandidateConfig, *, ends: Sequence[int], seed: int
) -> list[Draw]:
    """One completion of each prompt, each from a seed of its own.

    vLLM tells log-probs after temperature and top-p or before, not both: the model's own are known only where these
    change nothing.
    """
    vllm = needed("vllm", by="candidates.backend vllm")
    requests = [{"prompt_token_ids": prompts[row].tolist()} for row in range(len(prompts))]
    parameters = [
        vllm.SamplingParams(
            temperature=settings.temperature,
            top_p=settings.top_p,
            max_tokens=settings.max_new_tokens,
            stop_token_ids=list(ends),
            seed=_seed(seed, row),
            logprobs=0,
            detokenize=False,
        )
        for row in range(len(prompts))
    ]
    outputs = [request.outputs[0] for request in engine.generate(requests, parameters, use_tqdm=False)]
    unchanged = settings.temperature == 1 and settings.top_p == 1
    return [_draw(output, set(ends), unchanged) for output in outputs]


def _draw(output: Any, ends: set[int], unchanged: bool) -> Draw:
    tokens = list(output.token_ids)
    ended = output.finish_reason == "stop"
    end = tokens.pop() if tokens and tokens[-1] in ends else None
    log_mu = float(output.cumulative_logprob)
    return Draw(tokens, ended, log_mu, log_mu if unchanged else None, end)


def _seed(seed: int, row: int) -> int:
    """Of one completion of a block, in 63 bits."""
    return int.from_bytes(hashlib.sha256(f"{seed} {row}".encode()).digest()[:8], "big") >> 1
