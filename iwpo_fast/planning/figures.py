"""What an estimate of a stage says."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import NamedTuple

from iwpo_fast.planning.setting import Setting
from iwpo_fast.planning.work import Work


class Estimate(NamedTuple):
    """What a stage takes.

    Attributes:
        work: what the model runs.
        flops: of all GPUs together.
        seconds: at best and at worst.
        memory: bytes by part, on one GPU; empty for a stage of the host.
        note: what else there is to say.
    """

    work: Work = Work()
    flops: float = 0.0
    seconds: tuple[float, float] = (0.0, 0.0)
    memory: Mapping[str, int] = MappingProxyType({})
    note: str = ""


def seconds_of(setting: Setting, flops: float, traffic: float = 0.0) -> tuple[float, float]:
    """At best the GPUs' traffic is hidden behind their arithmetic, at worst it comes on top.

    Args:
        flops: of all GPUs together.
        traffic: bytes that each GPU receives from others.
    """
    worst, best = setting.config.plan.utilisation
    peak = setting.gpus * setting.gpu.flops
    return flops / (peak * best), flops / (peak * worst) + traffic / setting.gpu.link
