"""What an experiment with the small language model consists of: sizes, training, arms and seeds."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from iwpo_fast.config import OptimConfig, TinyConfig

MAIN = ("dpo", "iwpo", "soft", "soft_ensemble", "cheap_rival", "shuffled_weights", "oracle")
OTHERS = (
    *("iwpo_ensemble", "labels_only", "shuffled_labels", "ess", "lambda_one", "resampling"),
    *("one_cluster", "uncalibrated", "in_sample", "overlap", "soft_oracle"),
    *("wpo", "d_dpo", "e_dpo", "p_dpo"),
)


@dataclass(frozen=True)
class LabSettings:
    """The same for all arms and seeds.

    Attributes:
        model: shape of the policy.
        warmup_pairs: prompts with two completions each for the supervised policy.
        warmup: its training.
        pairs: preference pairs, both completions sampled from the supervised policy.
        noise: probability that a label is flipped after the Bradley-Terry draw.
        temperature: the log-odds of a label are (difference of gold rewards) / temperature.
        length_bias: added to these log-odds for every word that a completion is longer.
        beta: of every objective.
        optim: preference training; the learning rate stays as it is after its warm-up.
        steps: of preference training.
        checkpoints: steps after which a policy is evaluated.
        test_prompts: held-out prompts.
        samples: completions of each test prompt from every policy that is evaluated.
        max_new_tokens: longest completion.
    """

    model: TinyConfig = field(default_factory=lambda: TinyConfig(vocab_size=512, hidden_size=192, layers=2, heads=4))
    warmup_pairs: int = 9600
    warmup: OptimConfig = field(
        default_factory=lambda: OptimConfig(
            lr=3e-3, epochs=2, pairs_per_step=32, tokens_per_batch=8192, warmup_fraction=0.05
        )
    )
    pairs: int = 2000
    noise: float = 0.1
    temperature: float = 0.5
    length_bias: float = 0.0
    beta: float = 0.1
    optim: OptimConfig = field(
        default_factory=lambda: OptimConfig(lr=2e-4, pairs_per_step=32, tokens_per_batch=8192, schedule="constant")
    )
    steps: int = 62
    checkpoints: tuple[int, ...] = (20, 40, 62)
    test_prompts: int = 300
    samples: int = 3
    max_new_tokens: int = 40


@dataclass(frozen=True)
class Plan:
    """What is run, in this order: main arms for all seeds, then the others.

    Attributes:
        settings: see there.
        seeds: of each arm, main arms first.
        budgets: KL in nats at which arms are compared, each by itself and their mean.
    """

    settings: LabSettings
    seeds: Mapping[str, int]
    budgets: tuple[float, ...] = (0.2, 0.4, 0.8)

    def jobs(self) -> list[tuple[int, str]]:
        """(seed, arm); all main arms of a seed together, so that a cut run still compares."""
        most = max(self.seeds.values())
        return [
            (seed, arm)
            for group in (MAIN, OTHERS)
            for seed in range(most)
            for arm in group
            if seed < self.seeds.get(arm, 0)
        ]


FULL = Plan(LabSettings(), dict.fromkeys(MAIN, 8) | dict.fromkeys(OTHERS, 3))
SHORT = Plan(
    LabSettings(
        model=TinyConfig(vocab_size=512, hidden_size=96, layers=2, heads=4),
        warmup_pairs=4000,
        pairs=1000,
        steps=31,
        checkpoints=(15, 31),
        test_prompts=200,
    ),
    dict.fromkeys(("dpo", "iwpo", "soft_ensemble", "cheap_rival"), 2),
)
