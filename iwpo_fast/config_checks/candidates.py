"""Rules of completions that are drawn, and of groups of prompts."""

from __future__ import annotations

from iwpo_fast.config import CandidateConfig, RunConfig
from iwpo_fast.config_checks.unread import refuse_unread
from iwpo_fast.extras import check_installed


def check_candidates(config: RunConfig) -> None:
    candidates, longest = config.candidates, config.data.max_length
    if not candidates.per_prompt:
        for name, value in vars(candidates).items():
            if value != getattr(CandidateConfig(), name):
                raise ValueError(
                    f"candidates.{name} is {value} and candidates.per_prompt is 0, so nothing is drawn: set "
                    f"per_prompt, or leave {name} out."
                )
        return
    if candidates.max_new_tokens >= longest:
        raise ValueError(
            f"candidates.max_new_tokens is {candidates.max_new_tokens} and data.max_length is {longest}, which leaves "
            "no token for a prompt: lower the first, or raise the second."
        )
    if config.rewards.source == "columns":
        raise ValueError(
            f"candidates.per_prompt is {candidates.per_prompt} and rewards.source is columns, and what is drawn has no "
            "scores there: set rewards.source to features or model, or per_prompt to 0."
        )
    if candidates.backend == "vllm":
        check_installed("vllm", "candidates.backend is vllm", extra="vllm")
        if config.model.quantize != "none":
            raise ValueError(
                f"candidates.backend is vllm and model.quantize is {config.model.quantize}, and vLLM would draw from "
                "the model as it is without: set candidates.backend to transformers."
            )
        if config.model.adapter is not None:
            raise ValueError(
                f"candidates.backend is vllm and model.adapter is {config.model.adapter}, and vLLM would draw from the "
                "model without it: set candidates.backend to transformers."
            )


def check_clusters(config: RunConfig) -> None:
    clusters = config.clusters
    if clusters.fit_prompts < clusters.count:
        raise ValueError(
            f"clusters.fit_prompts is {clusters.fit_prompts} and clusters.count is {clusters.count}, and every cluster "
            "needs a prompt to be fitted on: raise fit_prompts, or lower count."
        )
    if clusters.method == "mixture":
        _check_mixture(config)
    if clusters.count == 1 and config.rewards.residual is not None:
        reason = "clusters.count is 1, and a single cluster has no residual"
        refuse_unread(config.rewards, "rewards", ["residual"], reason, "raise clusters.count")


def _check_mixture(config: RunConfig) -> None:
    if config.rewards.source != "features":
        raise ValueError(
            f"clusters.method is mixture and rewards.source is {config.rewards.source}, but a mixture is learnt with "
            "heads on features: set clusters.method to kmeans, or rewards.source to features."
        )
    if config.clusters.count == 1:
        raise ValueError(
            "clusters.method is mixture and clusters.count is 1, and one cluster has no gate: raise clusters.count, or "
            "set clusters.method to kmeans."
        )
