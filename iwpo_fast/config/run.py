"""The settings of `iwpo train` and of `iwpo run`."""

from __future__ import annotations

from dataclasses import dataclass, field, fields
from typing import Annotated, Literal, TypeVar

from iwpo_fast.config.candidates import CandidateConfig, ClusterConfig
from iwpo_fast.config.data import DataConfig
from iwpo_fast.config.model import ModelConfig
from iwpo_fast.config.objective import ObjectiveConfig
from iwpo_fast.config.optim import OptimConfig
from iwpo_fast.config.plan import PlanConfig
from iwpo_fast.config.rewards import RewardConfig
from iwpo_fast.config.training import CheckpointConfig, LogConfig, ReferenceSyncConfig, SampledKLConfig
from iwpo_fast.config.types import TypesConfig
from iwpo_fast.config.weights import WeightConfig
from iwpo_fast.limits import POSITIVE, SEED

Arm = Literal["dpo", "weights", "labels", "both"]

T = TypeVar("T")


@dataclass
class TrainConfig:
    """Train on preference pairs: tokenise, compute reference log-probs, optimise, evaluate, save.

    Running the same command again goes on from the last checkpoint in `output_dir`.

    Args:
        data: Preference pairs.
        model: Policy.
        objective: Loss.
        reference_sync: A reference that moves with the policy; null leaves it what it was before the first step.
        sampled_kl: A KL to the reference on completions that the policy draws while it trains, added to the loss; null
            adds none.
        types: Types of annotators, each with an adapter of its own, by EM; null trains one policy for all.
        optim: Optimiser.
        log: Reports.
        checkpoint: Checkpoints.
        output_dir: Folder of the run: configuration, metrics, checkpoints, final model.
        seed: Seed of data order, initialisation and dropout.
        device: `auto`, `cpu`, `cuda`, ...
        shard_over: Number of processes that hold one copy of weights, gradients and optimiser state between them
            (FSDP2); `all`, or `node` for those of each machine (HSDP). With 1 every process holds a whole copy.
        context_parallel: Number of neighbouring processes that compute each batch together, every one of them a part of
            each sequence (context parallelism), for pairs too long for one.
        deterministic: Ask PyTorch for deterministic algorithms on a GPU; a CPU run always is.
        self_test: Before the first step, check on some pairs that policy and reference agree on every token, and on up
            to 2,000 that reference log-probs in the data are those of the model.
        dry_run: Validate everything and print the plan, but do not train.
        push_to_hub: Repository of the Hugging Face hub that the saved model is sent to, with its card; null sends
            nothing anywhere. One that is not there yet is made, and is private. A finished run sends it when it is run
            again.
        plan: What a dry run estimates.
    """

    data: DataConfig
    model: ModelConfig = field(default_factory=ModelConfig)
    objective: ObjectiveConfig = field(default_factory=ObjectiveConfig)
    reference_sync: ReferenceSyncConfig | None = None
    sampled_kl: SampledKLConfig | None = None
    types: TypesConfig | None = None
    optim: OptimConfig = field(default_factory=OptimConfig)
    log: LogConfig = field(default_factory=LogConfig)
    checkpoint: CheckpointConfig = field(default_factory=CheckpointConfig)
    output_dir: str = "runs/train"
    seed: Annotated[int, SEED] = 0
    device: str = "auto"
    shard_over: Annotated[int, POSITIVE] | Literal["node", "all"] = 1
    context_parallel: Annotated[int, POSITIVE] = 1
    deterministic: bool = False
    self_test: bool = True
    dry_run: bool = False
    push_to_hub: str | None = None
    plan: PlanConfig = field(default_factory=PlanConfig)

    @property
    def scores_are_votes(self) -> bool:
        """Several scores of a response are votes of annotators on it, and not rewards of several models."""
        return False


@dataclass
class RunConfig(TrainConfig):
    """Importance-weighted preference optimisation, from pairs to report, in stages that are kept and resumed.

    prepare, sample (if `candidates.per_prompt` is set), reference, cluster, reward, weigh, train, evaluate. Running the
    same command again goes on where the last one stopped; a stage whose inputs and settings have not changed is
    skipped.

    Args:
        candidates: Completions drawn from the policy before training.
        clusters: Groups of prompts.
        rewards: Where rewards come from.
        weights: What becomes of them.
        arms: Parts of the method to train by themselves beside this run, from its rewards, and to compare on its
            held-out pairs: `dpo`, the objective on the pairs as they are, with which the others are compared;
            `weights` between pairs alone, those of the form `strong` where the run has none; posterior `labels` alone;
            `both` of these.
        rounds: Times to go through it all, in output_dir/round-1, round-2, ...: each round draws from the model that
            the one before trained, which is its reference too, and trains it further; needs `candidates.per_prompt`.
    """

    candidates: CandidateConfig = field(default_factory=CandidateConfig)
    clusters: ClusterConfig = field(default_factory=ClusterConfig)
    rewards: RewardConfig = field(default_factory=RewardConfig)
    weights: WeightConfig = field(default_factory=WeightConfig)
    arms: list[Arm] = field(default_factory=list)
    rounds: Annotated[int, POSITIVE] = 1
    output_dir: str = "runs/iwpo"

    @property
    def scores_are_votes(self) -> bool:
        return self.rewards.learns_from_votes


def dataclass_from(config: type[T], settings: object) -> T:
    """A configuration from what has its fields and perhaps others, such as that of a training from a pipeline's."""
    return config(**{field.name: getattr(settings, field.name) for field in fields(config)})  # type: ignore[arg-type]
