"""AdamW whose moments have 8 bits, on parameters that are split over processes, by bitsandbytes."""

from __future__ import annotations

from typing import Any, cast

import torch
from bitsandbytes.optim import AdamW8bit
from torch import Tensor
from torch.distributed.tensor import DTensor, zeros
from torch.nn import Parameter

from iwpo_fast.finite import local_part
from iwpo_fast.optimisation import BLOCK_8BIT, rows_are_blocks

SCALES = ("absmax1", "absmax2")


class ShardedAdamW8bit(AdamW8bit):
    """Steps on the part of each parameter that this process holds, and keeps moments that are split as it is.

    Parameters are split by rows. Where a row is whole blocks, the blocks of the parts are those of the whole, and the
    numbers are those of one process; other parameters keep moments of 32 bits.
    """

    def get_config(self, gindex: int, pindex: int, group: dict[str, Any]) -> dict[str, Any]:
        config: dict[str, Any] = super().get_config(gindex, pindex, group)
        return config if rows_are_blocks(group["params"][pindex]) else config | {"optim_bits": 32}

    @torch.no_grad()
    def init_state(self, group: dict[str, Any], p: DTensor, gindex: int, pindex: int) -> None:
        super().init_state(group, p, gindex, pindex)
        state = self.state[p]
        blocks = p.shape[0], p.numel() // p.shape[0] // BLOCK_8BIT
        for name in SCALES:
            if name in state:
                state[name] = zeros(*blocks, device_mesh=p.device_mesh, placements=p.placements)

    @torch.no_grad()
    def update_step(self, group: dict[str, Any], p: DTensor, gindex: int, pindex: int) -> None:
        part, state = Parameter(p.to_local()), self.state[p]
        if not part.numel():
            state["step"] += 1
            return
        part.grad = local_part(cast(Tensor, p.grad))
        self.state[part] = {name: _of_part(name, value) for name, value in state.items()}
        super().update_step(group, part, gindex, pindex)
        state["step"] = self.state.pop(part)["step"]


def _of_part(name: str, value: Any) -> Any:
    """What bitsandbytes keeps under this name of a parameter that is the part of this process."""
    if not isinstance(value, DTensor):
        return value
    return value.to_local().view(-1) if name in SCALES else value.to_local()
