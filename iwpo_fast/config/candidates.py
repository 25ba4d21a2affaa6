"""Completions that are drawn, and groups of prompts."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Literal

from iwpo_fast.limits import NOT_NEGATIVE, POSITIVE, SHARE


@dataclass
class CandidateConfig:
    """Completions drawn from the policy as it is before training, as further candidates of the training prompts.

    Args:
        per_prompt: How many are drawn for each prompt; 0 draws none.
        temperature: Divides the logits.
        top_p: Draw among the most probable tokens that have this probability together; 1 draws among all.
        max_new_tokens: A completion that has not ended by then is cut. It must leave room for a prompt in
            `data.max_length`.
        tokens_per_batch: Token budget of one batch, each completion with its prompt and `max_new_tokens`; a single one
            that is longer runs alone.
        backend: `transformers`, or `vllm` in a single process on a GPU (pip install 'iwpo-fast[vllm]'); `auto` takes
            vllm where it is installed and can be used.
    """

    per_prompt: Annotated[int, NOT_NEGATIVE] = 0
    temperature: Annotated[float, POSITIVE] = 1.0
    top_p: Annotated[float, SHARE] = 1.0
    max_new_tokens: Annotated[int, POSITIVE] = 256
    tokens_per_batch: Annotated[int, POSITIVE] = 16384
    backend: Literal["auto", "transformers", "vllm"] = "auto"


@dataclass
class ClusterConfig:
    """Groups of prompts whose rewards are compared with one another (MCRM).

    Args:
        count: Number of clusters; 1 puts all prompts into one.
        method: `kmeans` puts like prompts together, whatever their labels; `mixture` starts there and then learns
            gates of prompts together with rewards, from the labels, for `rewards.source: features`. It stays at
            k-means where held-out labels are not predicted better. What it was worth: docs/iwpo.md.
        backend: Where k-means runs; `auto` takes cuml on an NVIDIA GPU, flash-kmeans on another, else sklearn.
        min_pairs: Clusters with fewer pairs merge into the nearest.
        fit_prompts: Prompts that centroids are fitted on, drawn at random; all prompts are assigned.
    """

    count: Annotated[int, POSITIVE] = 8
    method: Literal["kmeans", "mixture"] = "kmeans"
    backend: Literal["auto", "cuml", "flash-kmeans", "sklearn"] = "auto"
    min_pairs: Annotated[int, POSITIVE] = 256
    fit_prompts: Annotated[int, POSITIVE] = 200_000
