"""Sampling by transformers' generation, with the log-probs of what is drawn."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor
from transformers import (
    GenerationConfig,
    LogitsProcessor,
    LogitsProcessorList,
    StoppingCriteria,
    StoppingCriteriaList,
    TemperatureLogitsWarper,
    TopPLogitsWarper,
)

from iwpo_fast.config import CandidateConfig
from iwpo_fast.data.ragged import Ragged
from iwpo_fast.models.policy import Policy
from iwpo_fast.models.reference import Inside, as_reference
from iwpo_fast.sampling.blocks import Draw


def draw_block(
    policy: Policy,
    prompts: Ragged,
    settings: CandidateConfig,
    *,
    ends: Sequence[int],
    pad: int,
    seed: int,
    inside: Inside = as_reference,
) -> list[Draw]:
    """One completion of each prompt; the global random state stays as it was.

    All ranks that share a sharded policy must call it, each with prompts of its own.

    Args:
        prompts: token ids, B rows.
        ends: tokens that end a completion.
        pad: a token to fill up with.
        inside: which policy draws: the reference, or the policy `as_it_is`.

    Raises:
        ValueError: the model's probabilities are not numbers.
    """
    width = int(prompts.lengths.max())
    ids = torch.full((len(prompts), width), pad)
    mask = torch.zeros_like(ids)
    for row in range(len(prompts)):
        length = len(prompts[row])
        ids[row, width - length :] = torch.from_numpy(prompts[row].astype(np.int64))
        mask[row, width - length :] = 1
    sampler = _Sampler(settings)
    plain = GenerationConfig(
        do_sample=True,
        temperature=1.0,
        top_k=0,
        top_p=1.0,
        max_new_tokens=settings.max_new_tokens,
        eos_token_id=list(ends),
        pad_token_id=pad,
    )
    devices = [policy.device] if policy.device.type == "cuda" else []
    with torch.random.fork_rng(devices), inside(policy):
        torch.manual_seed(seed)
        tokens = _generated(
            policy,
            input_ids=ids.to(policy.device),
            attention_mask=mask.to(policy.device),
            generation_config=plain,
            logits_processor=LogitsProcessorList([sampler]),
            stopping_criteria=StoppingCriteriaList([_AfterEachToken(sampler)]),
        )[:, width:]
        policy.release()
    return _draws(tokens, sampler, ends)


def _generated(policy: Policy, **inputs: object) -> Tensor:
    """int64 [B, prompt + T] of `Policy.generate`.

    Raises:
        ValueError: the model's probabilities are not numbers.
    """
    try:
        return policy.generate(**inputs)
    except RuntimeError as error:
        if "probability tensor" not in str(error):
            raise
        raise ValueError(
            "The model gives NaN or infinite logits, so nothing can be drawn from it: check its weights, or the "
            "precision that model.precision sets."
        ) from error


class _Sampler(LogitsProcessor):
    """Temperature and top-p, and the log-probs before and after them of each token that is then drawn.

    Only one step of logits is in memory at a time.

    Attributes:
        log_model, log_mu: [B] fp32 on the device, one for each step.
    """

    def __init__(self, settings: CandidateConfig) -> None:
        self.warpers: list[LogitsProcessor] = []
        if settings.temperature != 1:
            self.warpers.append(TemperatureLogitsWarper(settings.temperature))
        if settings.top_p < 1:
            self.warpers.append(TopPLogitsWarper(settings.top_p))
        self.step: tuple[Tensor, Tensor] | None = None
        self.log_model: list[Tensor] = []
        self.log_mu: list[Tensor] = []

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        warped = scores
        for warper in self.warpers:
            warped = warper(input_ids, warped)
        self.step = scores, warped
        return warped

    def was_drawn(self, tokens: Tensor) -> None:
        """Of the step before, `tokens` [B] were drawn."""
        assert self.step is not None
        for logits, logps in zip(self.step, (self.log_model, self.log_mu), strict=True):
            logps.append(logits.log_softmax(-1).gather(1, tokens[:, None])[:, 0])
        self.step = None


class _AfterEachToken(StoppingCriteria):
    """Tells the sampler what was drawn, and stops nothing."""

    def __init__(self, sampler: _Sampler) -> None:
        self.sampler = sampler

    def __call__(self, input_ids: Tensor, scores: object, **_: object) -> Tensor:
        self.sampler.was_drawn(input_ids[:, -1])
        return torch.zeros(len(input_ids), dtype=torch.bool, device=input_ids.device)


def _draws(tokens: Tensor, sampler: _Sampler, ends: Sequence[int]) -> list[Draw]:
    """Cut each row [B, T] behind the first token that ends it; what was generated behind it is padding."""
    steps = tokens.shape[1]
    logs = [torch.stack(part, 1)[:, :steps].double().cpu().numpy() for part in (sampler.log_model, sampler.log_mu)]
    is_end = torch.isin(tokens, torch.tensor(list(ends), device=tokens.device)).cpu().numpy()
    draws = []
    for row, ids in enumerate(tokens.cpu().numpy()):
        ended = bool(is_end[row].any())
        count = int(is_end[row].argmax()) + 1 if ended else steps
        log_model, log_mu = (float(log[row, :count].sum()) for log in logs)
        end = int(ids[count - 1]) if ended else None
        draws.append(Draw(ids[: count - ended].tolist(), ended, log_mu, log_model, end))
    return draws
