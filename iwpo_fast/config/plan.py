"""What a dry run estimates."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Literal

from iwpo_fast.limits import NOT_NEGATIVE, POSITIVE, SHARE, Limits


@dataclass
class DataShapeConfig:
    """What an estimate takes the data to be where they are not here.

    Args:
        prompts: Different prompts, those held out among them unless `data.eval_path` or `data.eval_split` names others.
        prompt_tokens: Tokens of every prompt.
        response_tokens: Tokens of every response.
        responses: Responses to each prompt.
        held_out_prompts: Prompts of the evaluation data that `data.eval_path` or `data.eval_split` names.
    """

    prompts: Annotated[int, POSITIVE]
    prompt_tokens: Annotated[int, POSITIVE]
    response_tokens: Annotated[int, POSITIVE]
    responses: Annotated[int, Limits(2)] = 2
    held_out_prompts: Annotated[int, NOT_NEGATIVE] = 0


@dataclass
class PlanConfig:
    """What a dry run estimates: tokens, memory and hours of every stage on GPUs that need not be here (docs/plan.md).

    Args:
        on: Kind of GPU; null estimates nothing.
        gpus: How many of them; `shard_over` says whether they hold the model together.
        utilisation: Assumed share of the peak arithmetic that a run gets, at worst and at best.
        data: What the data are taken to be where they are a hub id that is not here; null reads them.
        model: The config.json of the model where it is not here, such as {model_type: mistral, hidden_size: 4096}.
    """

    on: Literal["a100", "h100", "h200", "b200", "l40s", "mi300x"] | None = None
    gpus: Annotated[int, POSITIVE] = 1
    utilisation: tuple[Annotated[float, SHARE], Annotated[float, SHARE]] = (0.3, 0.5)
    data: DataShapeConfig | None = None
    model: dict[str, str | float | bool] | None = None
