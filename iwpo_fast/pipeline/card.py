"""What the card of a run's model says of the clusters, rewards and weights that it was trained with."""

from __future__ import annotations

from iwpo_fast.config import RewardConfig
from iwpo_fast.files import load_record
from iwpo_fast.importance.effects import effect_lines
from iwpo_fast.objectives import Mixture
from iwpo_fast.objectives.registry import Reads
from iwpo_fast.pipeline.job import PipelineJob
from iwpo_fast.pipeline.rows_file import effects_in

SOURCES = {
    "columns": "scores that the data bring",
    "model": "scores of a reward model",
    "iwpo": "those of a reward model that another run learnt",
}


def card_paragraph(job: PipelineJob) -> str:
    """One paragraph, from the records of the stages before training; without a path of this machine."""
    weights = job.config.weights
    done = "; ".join(effect_lines(effects_in(job.folder.weighted)))
    asked, reader = weights.resolved(), Mixture.of(job.config.objective).reading(Reads.SCORES)
    weighs = asked.formula != "none" or asked.soft_labels != 0 or asked.preferred_pairs != 0
    if not weighs and reader is None:
        return f"The pairs were prepared by `iwpo run`, which used no rewards; {done}."
    clusters = int(job.read_prompt_clusters().max()) + 1
    agreement = load_record(job.folder.reward_report)["total"]["accuracy"]
    read = "" if reader is None else f", and are read by the objective {reader}"
    form = f"Form of the weights: `{weights.form}`" if weighs else "Pairs are not weighed by rewards"
    return (
        f"The pairs were prepared by `iwpo run`. Clusters: {clusters}, of prompts, by {job.config.clusters.method}. "
        f"Rewards: {_rewards(job.config.rewards)}, which agree with {agreement:.1%} of the labels{read}. "
        f"{form}; {done}."
    )


def _rewards(rewards: RewardConfig) -> str:
    if rewards.source != "features":
        source = SOURCES[rewards.source]
    else:
        tuned = "" if rewards.tuning is None else ", fine-tuned under them"
        source = f"{rewards.heads} heads on features of the model{tuned}, on prompts that each had not seen"
    return source if rewards.calibration or rewards.source == "iwpo" else f"{source}, not calibrated"
