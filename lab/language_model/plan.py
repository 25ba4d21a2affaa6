"""Which arms run in which worlds, in what order, and where they are compared."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from iwpo_fast.config import TinyConfig
from lab.language_model.settings import LabSettings

MAIN = ("dpo", "default", "iwpo", "labels_only", "soft_ensemble", "p_dpo", "d_dpo", "oracle")
OTHERS = (
    *("hidden_states", "shuffled_labels", "shuffled_weights", "e_dpo", "wpo", "cheap_rival"),
    *("iwpo_ensemble", "soft", "ess", "lambda_one", "resampling"),
    *("one_cluster", "uncalibrated", "in_sample", "overlap", "soft_oracle"),
)


@dataclass(frozen=True)
class Plan:
    """What is run.

    Attributes:
        settings: of every world.
        rounds: arms and the seeds of their worlds, in turn; of a run that is cut short the first rounds are whole.
        budgets: KL in nats at which arms are compared, each by itself and their mean.
    """

    settings: LabSettings
    rounds: Sequence[tuple[Sequence[str], Sequence[int]]]
    budgets: tuple[float, ...] = (0.4, 0.8)

    def jobs(self) -> list[tuple[int, str]]:
        """(seed, arm); the arms of a seed follow one another, as they share a world."""
        return [(seed, arm) for arms, seeds in self.rounds for seed in seeds for arm in arms]


# Seeds 0 and 1 had part in the choice of the defaults; 2 to 6 had been seen before, with rewards of an earlier kind.
FULL = Plan(LabSettings(), ((MAIN, range(2, 7)), (OTHERS, range(2, 4)), (MAIN, range(7, 10)), (OTHERS, range(4, 5))))
OTHER_WORLDS = Plan(LabSettings(), ((MAIN, range(2, 7)), (MAIN[:3], range(7, 10))))
"""Of other noise or with a length bias."""
SHORT = Plan(
    LabSettings(
        model=TinyConfig(vocab_size=512, hidden_size=96, layers=2, heads=4),
        warmup_pairs=4000,
        pairs=1000,
        steps=31,
        test_prompts=200,
    ),
    [(("dpo", "iwpo", "default", "soft_ensemble"), range(2))],
)
