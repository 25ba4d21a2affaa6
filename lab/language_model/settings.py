"""What a world of the small language model consists of, and how policies are trained and measured in it."""

from __future__ import annotations

from dataclasses import dataclass, field

from iwpo_fast.config import OptimConfig, TinyConfig


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
    noise: float = 0.1
    temperature: float = 0.5
    length_bias: float = 0.0
    beta: float = 0.1
    optim: OptimConfig = field(
        default_factory=lambda: OptimConfig(lr=2e-4, pairs_per_step=32, tokens_per_batch=8192, schedule="constant")
    )
    steps: int = 62
    scales: tuple[float, ...] = (0.35, 0.7, 1.2)
    test_prompts: int = 300
    samples: int = 3
    max_new_tokens: int = 40
