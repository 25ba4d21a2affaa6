"""What a world of the small language model consists of, and which arms run in which worlds, in what order."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from iwpo_fast.config import OptimConfig, TinyConfig
from lab.exact.candidates import SEEN_TWICE


@dataclass(frozen=True)
class LabSettings:
    """The same for all arms and seeds.

    Attributes:
        model: shape of the policy.
        warmup_pairs: prompts with two completions each for the supervised policy.
        warmup: its training.
        pairs: preference pairs, both completions sampled from the supervised policy.
        candidates: further completions of each prompt, sampled from the supervised policy, for the arms that use them.
        noise: probability that a label is flipped after the Bradley-Terry draw.
        temperature: the log-odds of a label are (difference of gold rewards) / temperature.
        beta: of every objective.
        optim: preference training; the learning rate stays as it is after its warm-up. An arm with more pairs has as
            many more in each step, so that all arms take the same steps and see each labelled pair once.
        steps: of preference training.
        scales: every trained policy is evaluated at these factors on its log-ratio to the reference.
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
    candidates: int = 8
    noise: float = 0.1
    temperature: float = 0.5
    beta: float = 0.1
    optim: OptimConfig = field(
        default_factory=lambda: OptimConfig(lr=2e-4, pairs_per_step=32, tokens_per_batch=8192, schedule="constant")
    )
    steps: int = 62
    scales: tuple[float, ...] = (0.35, 0.7, 1.2)
    test_prompts: int = 300
    samples: int = 3
    max_new_tokens: int = 40


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


# What the best finalists are where nothing is sampled. It stands beside them whether or not it is one of them, as do
# controls for the finalists that see more pairs.
WITHOUT_SAMPLES = "logistic, ν 1; auto"

# Seeds 0 and 1 had part in the choice of the defaults; 2 to 6 had been seen before, with rewards of an earlier kind.
FULL = Plan(LabSettings(), ((MAIN, range(2, 7)), (OTHERS, range(2, 4)), (MAIN, range(7, 10)), (OTHERS, range(4, 5))))
OTHER_NOISE = Plan(LabSettings(), ((MAIN, range(2, 7)), (MAIN[:3], range(7, 10))))


def choice(finalists: Sequence[str]) -> Plan:
    """The finalists of the library's default beside DPO, in seeds that nothing else has."""
    arms = dict.fromkeys(["dpo", *finalists, WITHOUT_SAMPLES, *SEEN_TWICE])
    return Plan(LabSettings(), [(tuple(arms), [seed]) for seed in range(10, 15)])


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
