"""`trl.DPOTrainer` with a weight and a smoothed label for each pair, and all objectives of this library."""

from __future__ import annotations

import inspect
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import fields
from typing import Any

import torch
from torch import Tensor
from trl import DPOConfig, DPOTrainer
from trl.trainer.dpo_trainer import DataCollatorForPreference

from iwpo_fast.config import ObjectiveConfig
from iwpo_fast.data.columns import SCORES
from iwpo_fast.integrations.trl.checks import check_collator, check_data, check_loss_is_given_once, check_settings
from iwpo_fast.integrations.trl.collator import NUMBERS, WeightedPreferenceCollator
from iwpo_fast.integrations.trl.head import fused_head
from iwpo_fast.integrations.trl_objective import objective_of
from iwpo_fast.objectives import Mixture, Pair, Side
from iwpo_fast.objectives.registry import Reads
from iwpo_kernels.weighted_preference import weighted


class WeightedDPOTrainer(DPOTrainer):
    """Trains on (1/D) Σ_i ω_i [(1 - ε_i) ℓ(pair_i) + ε_i ℓ(flipped pair_i)], with TRL's data, models and metrics.

    D is the number of pairs of the optimiser step, or the sum of their weights, over all its micro-batches and all
    processes, so that nothing depends on how a step is split. Objectives that compare pairs with others of their step
    (`aot`, `bco`, ...) compare those of a micro-batch, as TRL does. The log-probs are those of
    `iwpo_kernels.linear_token_logps`, inside the forward of the wrapped model. A data set
    without weights trains as with weights of 1, which with TRL's losses is what TRL's trainer does.

    Args:
        objective: of this library (docs/objectives.md); None takes `loss_type`, `loss_weights`, `beta`,
            `f_divergence_type` and what belongs to them from the `DPOConfig`, which says nothing else otherwise.
        weight_column, label_smoothing_column: their names in the data sets; scores are `score_chosen` and
            `score_rejected`.

    Raises:
        ValueError: settings that this trainer would ignore are set, the objective does not exist, a `data_collator`
            would leave out what pairs bring, or a data set lacks a column that is named, has numbers that are out of
            range, or lacks what the objective reads. Of a stream the first row is checked before training.
    """

    args: Any
    model: Any
    _signature_columns: Any
    objective: ObjectiveConfig
    mixture: Mixture
    loss_is_scaled_for_ga = True  # D counts the pairs of all micro-batches of a step

    def __init__(
        self,
        *args: Any,
        objective: ObjectiveConfig | None = None,
        weight_column: str = "weight",
        label_smoothing_column: str = "label_smoothing",
        **kwargs: Any,
    ) -> None:
        given = inspect.signature(DPOTrainer).bind_partial(*args, **kwargs).arguments
        config = given.get("args") or DPOConfig()
        if objective is not None:
            check_loss_is_given_once(objective, config)
        self.objective = objective or objective_of(config)
        self.mixture = Mixture.of(self.objective)
        self.columns = {"weight": weight_column, "label_smoothing": label_smoothing_column}
        if self.mixture.reads(Reads.SCORES):
            self.columns |= {name: name for name in SCORES}
        check_settings(self.mixture, config)
        check_collator(given.get("data_collator"), self.columns, given.get("train_dataset"))
        self._check_data("train_dataset", given.get("train_dataset"))
        self._check_data("eval_dataset", given.get("eval_dataset"))
        super().__init__(*args, **kwargs)
        if self._is_vision_dataset:
            raise ValueError("WeightedDPOTrainer trains on text alone: take trl.DPOTrainer for images.")
        if type(self.data_collator) is DataCollatorForPreference:
            own = {field.name: getattr(self.data_collator, field.name) for field in fields(self.data_collator)}
            self.data_collator = WeightedPreferenceCollator(**own, columns=self.columns)

    def _check_data(self, name: str, data: Any) -> None:
        """`check_data` of a data set, or of each in a mapping of several."""
        for key, one in data.items() if isinstance(data, dict) else [(None, data)]:
            if one is not None and not isinstance(one, str):
                called = name if key is None else f"{name}[{key!r}]"
                check_data(called, one, self.columns, self.mixture, self.objective.label_smoothing)

    def evaluate(self, eval_dataset: Any = None, *args: Any, **kwargs: Any) -> dict[str, float]:
        self._check_data("eval_dataset", eval_dataset)
        return super().evaluate(eval_dataset, *args, **kwargs)

    def _set_signature_columns_if_needed(self) -> None:
        super()._set_signature_columns_if_needed()
        self._signature_columns = list(dict.fromkeys([*self._signature_columns, *self.columns.values()]))

    def _get_num_items_in_batch(self, batch_samples: list[dict[str, Any]], device: torch.device) -> Tensor | None:
        """D of a step: what the weighted losses of all its micro-batches, on all processes, are divided by."""
        if not batch_samples:
            return None
        amounts = torch.tensor([sum(self._amount(batch) for batch in batch_samples)], device=device)
        total = self.accelerator.gather(amounts).sum()
        return torch.where(total > 0, total, 1.0)  # the losses of pairs that weigh nothing add up to 0

    def _amount(self, batch: dict[str, Any]) -> float:
        """Of a micro-batch, what it adds to D."""
        if self.objective.normalize == "weights" and "weight" in batch:
            return float(batch["weight"].double().sum())
        return float(batch["input_ids"].shape[0] // 2)

    def compute_loss(
        self,
        model: Any,
        inputs: dict[str, Any],
        return_outputs: bool = False,
        num_items_in_batch: Tensor | int | None = None,
    ) -> Any:
        theirs = {name: value for name, value in inputs.items() if name not in NUMBERS}
        numbers = {name: inputs[name] for name in NUMBERS if name in inputs}
        forward = _Recorded(model)
        with fused_head(), self._with_reference(theirs) as given:
            _, *outputs = _as_tuple(super().compute_loss(forward, given, return_outputs))
        loss = self._weighted_loss(forward.outputs, given, numbers, num_items_in_batch)
        return (loss, *outputs) if return_outputs else loss

    @contextmanager
    def _with_reference(self, inputs: dict[str, Any]) -> Iterator[dict[str, Any]]:
        """The inputs with log-probs of the reference, which TRL then takes from there as if they had been cached."""
        if self.precompute_ref_logps:
            yield inputs
            return
        chosen, rejected = self._reference(inputs)
        self.precompute_ref_logps = True
        try:
            yield inputs | {"ref_chosen_logps": chosen, "ref_rejected_logps": rejected}
        finally:
            self.precompute_ref_logps = False

    def _reference(self, inputs: dict[str, Any]) -> tuple[Tensor, Tensor]:
        """Log-probs under the reference, [P] each; zeros for objectives without one, whose rewards are then β l."""
        if self.mixture.uses_reference:
            return self.compute_ref_log_probs(self.ref_model or self.model, inputs)
        nothing = torch.zeros(inputs["input_ids"].shape[0] // 2, device=inputs["input_ids"].device)
        return nothing, nothing

    def compute_ref_log_probs(self, model: Any, inputs: dict[str, Any]) -> tuple[Tensor, Tensor]:
        with fused_head():
            return super().compute_ref_log_probs(model, {k: v for k, v in inputs.items() if k not in NUMBERS})

    def _weighted_loss(
        self, outputs: Any, inputs: dict[str, Any], numbers: dict[str, Tensor], denominator: Tensor | int | None
    ) -> Tensor:
        pair = self._pair(outputs.log_probs, inputs, numbers)
        weight = numbers.get("weight", torch.ones(len(pair), device=pair.chosen.logp.device)).double()
        given = numbers.get("label_smoothing")
        smoothing = self.objective.label_smoothing if given is None else given.double()
        constants = self.mixture.constants(pair, {}, None)
        losses = self.mixture(pair, constants, smoothing)
        self._log_weights(weight)
        total = weighted(losses, weight).sum()
        if denominator is None:
            return (total / (self._amount(inputs | numbers) or 1.0)).float() + self._router_loss(outputs)
        # Wrappers average gradients over processes, and D is of all of them.
        loss = (total * self.accelerator.num_processes / denominator).float()
        return loss + self._router_loss(outputs) / self.current_gradient_accumulation_steps

    def _pair(self, token_logps: Tensor, inputs: dict[str, Any], numbers: dict[str, Tensor]) -> Pair:
        """What an objective sees, in float64."""
        mask = inputs["completion_mask"][:, 1:]
        logp = token_logps[:, -mask.shape[1] :].double().sum(1).chunk(2)
        tokens = mask.sum(1).clamp(min=1).double().chunk(2)
        reference = [inputs[f"ref_{side}_logps"].double() for side in ("chosen", "rejected")]
        scores = [numbers[f"score_{side}"].double() for side in ("chosen", "rejected") if f"score_{side}" in numbers]

        def side(i: int) -> Side:
            rewards = scores[i].reshape(len(scores[i]), -1) if scores else None
            return Side(logp[i], tokens[i], reference[i], rewards, divergence=self.mixture.divergence)

        return Pair(side(0), side(1))

    def _router_loss(self, outputs: Any) -> Tensor | float:
        """The auxiliary loss of a mixture of experts, as TRL adds it."""
        return self.router_aux_loss_coef * outputs.aux_loss if self.aux_loss_enabled else 0.0

    def _log_weights(self, weight: Tensor) -> None:
        """Mean weight and effective share of the pairs, (Σω)² / (P Σω²), over all processes."""
        every = self.accelerator.gather_for_metrics(weight)
        metrics = self._metrics["train" if self.model.training else "eval"]
        metrics["weights/mean"].append(every.mean().item())
        squares = every.square().mean().item()
        metrics["weights/effective"].append(every.mean().item() ** 2 / squares if squares else 0.0)


class _Recorded:
    """A model that keeps what it returned last, so that its log-probs make this library's loss beside TRL's metrics."""

    def __init__(self, model: Any) -> None:
        self._model = model
        self.outputs: Any = None

    def __call__(self, **inputs: Any) -> Any:
        outputs = self._model(**inputs)
        if "fused_lm_head" in inputs:
            self.outputs = outputs
        return outputs


def _as_tuple(result: Any) -> tuple[Any, ...]:
    return result if isinstance(result, tuple) else (result,)
