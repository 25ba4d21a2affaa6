"""Rules of the KL on completions that the policy draws itself."""

from __future__ import annotations

from iwpo_fast.config import SampledKLConfig, TrainConfig


def check_sampled_kl(config: TrainConfig) -> None:
    asked, longest = config.sampled_kl, config.data.max_length
    if asked is None:
        return
    _check_counts(asked)
    if asked.max_new_tokens >= longest:
        raise ValueError(
            f"sampled_kl.max_new_tokens is {asked.max_new_tokens} and data.max_length is {longest}, which leaves no "
            "token for a prompt: lower the first, or raise the second."
        )
    if config.reference_sync is not None:
        raise ValueError(
            "sampled_kl and reference_sync are set, and the KL is to a reference that stands still: leave one of the "
            "two out."
        )
    for name in ("shard_over", "context_parallel"):
        value = getattr(config, name)
        if value != 1:
            raise ValueError(
                f"{name} is {value} and sampled_kl is set, which reads whole distributions of the head in one process: "
                f"set {name} to 1, with model.lora where the model is large, or leave sampled_kl out."
            )


def _check_counts(asked: SampledKLConfig) -> None:
    """Refuse more completions in a step than there are, and completions that no step would come to."""
    every, samples, per_step = asked.every, asked.samples, asked.per_step
    if per_step > samples:
        raise ValueError(
            f"sampled_kl.per_step is {per_step} and sampled_kl.samples is {samples}, of which a step would read some "
            "twice: raise samples, or lower per_step."
        )
    if samples > every * per_step:
        raise ValueError(
            f"sampled_kl.samples is {samples}, and the {every} steps of sampled_kl.every read {every * per_step} of "
            f"them, with sampled_kl.per_step {per_step}: lower samples, or raise one of the others."
        )
