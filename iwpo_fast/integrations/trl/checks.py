"""What `WeightedDPOTrainer` refuses before it loads or tokenises anything."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import MISSING, fields
from typing import Any

from trl import DPOConfig
from trl.trainer.dpo_trainer import DataCollatorForPreference

from iwpo_fast.config import ObjectiveConfig
from iwpo_fast.data.columns import SCORES, WEIGHTS
from iwpo_fast.data.unread_numbers import meant_by
from iwpo_fast.integrations.trl.collator import WeightedPreferenceCollator
from iwpo_fast.integrations.trl.columns import checked_columns
from iwpo_fast.objectives import Mixture
from iwpo_fast.objectives.registry import Reads

logger = logging.getLogger(__name__)

OF_LOSS = (
    *("loss_type", "loss_weights", "beta", "label_smoothing"),
    *("f_divergence_type", "f_alpha_divergence_coef", "discopop_tau"),
)
"""Settings of a `DPOConfig` that say what the loss is."""

REMEMBERS = "beta_dpo"
"""The objective that needs running means over steps and samples among the pairs of a whole step."""


def check_settings(mixture: Mixture, config: DPOConfig) -> None:
    """Raise ValueError where settings, or what an objective reads, would be ignored."""
    if config.ld_alpha is not None or config.use_weighting:
        name = "ld_alpha" if config.ld_alpha is not None else "use_weighting"
        raise ValueError(f"{name} of the DPOConfig is not read by WeightedDPOTrainer: leave it out.")
    if (rewarded := mixture.reading(Reads.OWN_REWARD)) is not None:
        raise ValueError(f"The objective {rewarded} trains a reward head, which TRL's model has not: take iwpo train.")
    for what in (Reads.ALIGNMENT, Reads.SHARED_TOKENS):
        reading = mixture.reading(what)
        if reading is not None:
            raise ValueError(
                f"The objective {reading} reads more of each token than TRL's trainer has: train it by iwpo train."
            )
    if any(one.name == REMEMBERS for one in mixture.objectives):
        raise ValueError(
            f"The objective {REMEMBERS} compares the pairs of a step with those of earlier ones, and TRL's trainer "
            "sees one micro-batch: train it by iwpo train."
        )
    if (ordering := mixture.reading(Reads.CANDIDATES)) is not None:
        raise ValueError(
            f"The objective {ordering} compares all candidates of a row, and TRL has pairs: use iwpo train."
        )


def check_loss_is_given_once(objective: ObjectiveConfig, config: DPOConfig) -> None:
    """Raise ValueError where the `DPOConfig` asks for another loss than `objective`, because only that is read."""
    same = {"loss_type": [objective.name], "beta": objective.beta, "label_smoothing": objective.label_smoothing}
    for field in fields(DPOConfig):
        value = getattr(config, field.name)
        usual = field.default if field.default_factory is MISSING else field.default_factory()
        if field.name in OF_LOSS and value != usual and value != same.get(field.name, usual):
            raise ValueError(
                f"objective is given, and {field.name} of the DPOConfig is {value}, which would not be read: say it in "
                "the ObjectiveConfig, and leave it out of the DPOConfig."
            )


def check_collator(collator: Any, columns: Mapping[str, str], data: Any) -> None:
    """Raise ValueError where a collator leaves out what the pairs of `data` bring."""
    if collator is None or type(collator) is DataCollatorForPreference:  # the trainer puts its own in their place
        return
    if isinstance(collator, WeightedPreferenceCollator):
        if any(collator.columns.get(ours) != theirs for ours, theirs in columns.items()):
            raise ValueError(
                f"data_collator reads the columns {_listed(collator.columns)}, and the trainer {_listed(columns)}: "
                "give both the same names."
            )
        return
    if data is not None and (left_out := [name for name in columns.values() if name in _names(data)]):
        raise ValueError(
            f"data_collator is a {type(collator).__name__}, whose batches may lack {' and '.join(left_out)}: derive it "
            "from WeightedPreferenceCollator, or leave it out."
        )


def check_data(name: str, data: Any, columns: Mapping[str, str], mixture: Mixture, smoothing: float) -> None:
    """Raise ValueError where a data set lacks a column, or has numbers, that training would stop at.

    Args:
        name: what sentences call it.
        data: all rows are read, of a stream the first.
        columns: our names to those of the data; one that is not named as by default must be there.
        smoothing: of the labels, where the data bring none.
    """
    present = _names(data)
    for ours, theirs in columns.items():
        if theirs != ours and theirs not in present:
            raise ValueError(
                f"{ours}_column is {theirs!r}, which {name} does not have: choose among {', '.join(present)}."
            )
    there = {ours: theirs for ours, theirs in columns.items() if theirs in present}
    if not there.keys() >= set(SCORES):  # one without the other is none
        there = {ours: theirs for ours, theirs in there.items() if ours not in SCORES}
    for unread in present:
        near = None if unread in columns.values() else meant_by(unread, [ours for ours in columns if ours not in there])
        if near is not None:
            renamed = f"{near}_column={unread!r}" if near in WEIGHTS else f"a column named {near}"
            logger.warning("%s: %s is not read, did you mean %s? (%s)", name, unread, near, renamed)
    numbers = checked_columns(data, there, name)
    mixture.check_columns(numbers, numbers.get("label_smoothing", smoothing), name, naming="rename yours so")


def _names(data: Any) -> list[str]:
    return list(data.column_names or next(iter(data), {}))  # a stream may know its rows alone


def _listed(columns: Mapping[str, str]) -> str:
    return ", ".join(columns.values())
