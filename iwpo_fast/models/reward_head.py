"""The head by which a policy gives rewards itself: trained with it, and kept in a folder inside the model's.

Plain transformers and vLLM read the model without it, because they look at the files of the model's folder alone.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Self

import torch
from torch import Tensor, nn

from iwpo_fast.checksums import Damaged
from iwpo_fast.config import DataConfig, ModelConfig, ObjectiveConfig
from iwpo_fast.data.token_record import token_record
from iwpo_fast.files import load_record, load_tensors, save_record, save_tensors
from iwpo_fast.models.pretrained import model_location

NAME = "reward_head"
"""Of its folder, and of its parameters in a checkpoint."""

WEIGHTS, RECORD = "head.safetensors", "reward_head.json"

FORMAT = 1
READS = "hidden state at the last token of the completion, final norm included"


class RewardHead(nn.Module):
    """ρ(x, y) = vᵀ h(x, y), h what the LM head reads at the last token of the completion. A bias would cancel.

    It begins at 0, so that it moves nothing of the policy before it points somewhere.

    Args:
        width: of hidden states.
        tokens: how texts became tokens where it was trained, for scoring other texts.

    Attributes:
        weight: float32 [1, H], v.
    """

    def __init__(self, width: int, tokens: Mapping[str, Any]) -> None:
        super().__init__()
        self.tokens = dict(tokens)
        self.weight = nn.Parameter(torch.zeros(1, width))

    def forward(self, states: Tensor) -> Tensor:
        """float32 [S], rewards of sequences whose hidden states at their last tokens are `states` [S, H]."""
        return states.float() @ self.weight[0]

    def save(self, model: Path, about: Mapping[str, Any]) -> None:
        """Write it into the folder of a model, which exists.

        Args:
            about: what else texts depend on there, such as the clock that a chat template shows.
        """
        folder = model / NAME
        folder.mkdir()
        save_tensors(folder / WEIGHTS, {"weight": self.weight.detach().cpu()})
        save_record(folder / RECORD, {"format": FORMAT, "reads": READS, "tokens": self.tokens | dict(about)})

    @classmethod
    def load(cls, model: Path) -> Self:
        """The head in the folder of a model.

        Raises:
            ValueError: it is damaged, or of a version that is not read here.
        """
        folder = model / NAME
        try:
            record, weight = load_record(folder / RECORD), load_tensors(folder / WEIGHTS)["weight"]
            version, tokens = record["format"], record["tokens"]
        except (Damaged, OSError, KeyError, TypeError) as error:
            raise ValueError(f"The reward head in {folder} is damaged: copy the model again.") from error
        if version != FORMAT:
            raise ValueError(
                f"The reward head in {folder} has the format {version}, and this version reads {FORMAT}: take the "
                "version that made it."
            )
        head = cls(weight.shape[-1], tokens)
        head.weight.data.copy_(torch.from_numpy(weight))
        return head


def has_reward_head(model: Path) -> bool:
    """Whether the folder of a model has a reward head."""
    return (model / NAME / RECORD).is_file()


def own_rates(objective: ObjectiveConfig) -> dict[str, float]:
    """Peak learning rates of its parameters, by name, where they have their own."""
    rate = objective.reward_head_lr
    return {} if rate is None else {f"{NAME}.weight": rate}


def head_to_train(model: ModelConfig, data: DataConfig, width: int) -> RewardHead:
    """A head that goes on from that of the model or adapter which training starts from; at 0 where that has none.

    Raises:
        ValueError: the head that is there is damaged, or of another width.
    """
    start, tokens = model.adapter or model.path, token_record(data)
    if model.path == "tiny" or not has_reward_head(Path(model_location(start))):
        return RewardHead(width, tokens)
    head = RewardHead.load(Path(model_location(start)))
    if (learnt := head.weight.shape[1]) != width:
        raise ValueError(
            f"The reward head in {start} reads hidden states of size {learnt}, and the model has {width}: give the "
            "model that it was trained with."
        )
    head.tokens = tokens
    return head
