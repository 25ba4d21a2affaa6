"""Rules of what is held out."""

from __future__ import annotations

from iwpo_fast.config import DataConfig, TrainConfig


def check_held_out(data: DataConfig) -> None:
    """Refuse a fraction to hold out that is not held out; 0 is what holds beside evaluation data that are named."""
    for name in ("eval_path", "eval_split"):
        value = getattr(data, name)
        if value is not None and data.eval_fraction not in (0, DataConfig.eval_fraction):
            raise ValueError(
                f"data.eval_fraction is {data.eval_fraction} and data.{name} is {value}, which alone is held out then: "
                f"set data.eval_fraction to 0, or leave data.{name} out."
            )


def holds_nothing_out(config: TrainConfig) -> bool:
    data = config.data
    return data.eval_path is None and data.eval_split is None and not data.eval_fraction
