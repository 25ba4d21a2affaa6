"""Types of annotators, who want different things."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Annotated, Literal

from iwpo_fast.limits import NOT_NEGATIVE, POSITIVE


@dataclass
class TypesConfig:
    """An adapter for each of K types of annotators, who are told apart by EM (docs/systems/em.md).

    Args:
        count: Number of types, K.
        rounds: Rounds of EM, each a training of all adapters from the reference on, in output_dir/round-1, round-2, ...
        votes: The votes by which an annotator's type is told after each round: those of the `held_out` pairs, or those
            that were `trained` on, as the paper's authors do.
        start: `clusters` groups annotators by what they prefer in the reference's hidden states; or a JSON file that
            gives annotators their type, from 0, or their share of each, such as {"ann": 0, "bob": [0.2, 0.8]}.
        mixture_prompts: Prompts on which the policies of the types are compared for the mixture of them that is least
            bad for the worst off (MinMax); 0 makes no mixture.
        mixture_tokens: Tokens of a completion there at most.
        regret_weights: How much the regret of each type counts there; empty for 1 each.
    """

    count: Annotated[int, POSITIVE] = 2
    rounds: Annotated[int, POSITIVE] = 5
    votes: Literal["held_out", "trained"] = "held_out"
    start: str = "clusters"
    mixture_prompts: Annotated[int, NOT_NEGATIVE] = 128
    mixture_tokens: Annotated[int, POSITIVE] = 128
    regret_weights: list[Annotated[float, POSITIVE]] = field(default_factory=list)
