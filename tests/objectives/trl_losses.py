"""TRL's own loss methods on given log-probs: the unbound method of a trainer, with no trainer and no model."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable
from dataclasses import dataclass, fields
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from objective_cases import leaves, with_logps
from torch import Tensor

from iwpo_fast.objectives import Pair, Side

Loss = Callable[[Pair], Tensor]


def trainer_class(module: str, name: str) -> Any:
    return getattr(pytest.importorskip(module), name)


def loss_and_gradients(loss: Loss, pair: Pair) -> tuple[Tensor, Tensor, Tensor]:
    """A loss of the whole batch, and its gradients by the log-probs of both sides."""
    w, l = leaves(pair)  # noqa: E741
    value = loss(with_logps(pair, w, l))
    return value.detach(), *torch.autograd.grad(value, (w, l), allow_unused=True, materialize_grads=True)


def dpo(
    loss_type: str,
    beta: float,
    *,
    smoothing: float = 0.0,
    divergence: str = "reverse_kl",
    divergence_alpha: float = 0.5,
    weighting: bool = False,
    ld_alpha: float | None = None,
) -> Loss:
    trainer = trainer_class("trl.trainer.dpo_trainer", "DPOTrainer")

    def loss(pair: Pair) -> Tensor:
        batch = Tokens.of(pair)
        stub = _trainer(
            beta=beta,
            loss_types=[loss_type],
            loss_weights=[1.0],
            label_smoothing=smoothing,
            f_divergence_type=divergence,
            f_alpha_divergence_coef=divergence_alpha,
            use_weighting=weighting,
            ld_alpha=ld_alpha,
            args=SimpleNamespace(discopop_tau=0.05, gradient_checkpointing_kwargs=None),
            ref_model=lambda **_: SimpleNamespace(log_probs=batch.ref_logps),
        )
        return trainer._compute_loss(stub, lambda **_: batch.outputs(), batch.inputs(), False)

    return loss


def kto(beta: float, desirable: float, undesirable: float, loss_type: str = "kto") -> Loss:
    """With the completions' own log-probs in place of those of mismatched ones; over the completions that are there."""
    trainer = trainer_class("trl.trainer.kto_trainer", "KTOTrainer")

    def loss(pair: Pair) -> Tensor:
        there = [torch.ones(len(pair), dtype=torch.bool) if s.present is None else s.present for s in _sides(pair)]
        batch = Tokens.of(pair).only(torch.cat(there))
        label = torch.cat([torch.ones_like(there[0]), torch.zeros_like(there[1])])[torch.cat(there)]
        summed = {"policy": batch.logps.sum(1).detach(), "reference": batch.ref_logps.sum(1)}
        stub = _trainer(
            beta=beta,
            loss_type=loss_type,
            calculate_KL=loss_type == "kto",
            desirable_weight=desirable,
            undesirable_weight=undesirable,
            precompute_ref_logps=True,
            _compute_kl_logps=lambda model, batch: summed["policy"],
        )
        inputs = batch.inputs() | {
            "label": label,
            "ref_logps": summed["reference"],
            "ref_KL_logps": summed["reference"],
        }
        return trainer._compute_loss(stub, lambda **_: batch.outputs(), inputs, False)

    return loss


def cpo(
    loss_type: str,
    beta: float,
    *,
    alpha: float = 0.0,
    gamma: float = 0.5,
    average: bool = False,
    smoothing: float = 0.0,
) -> Loss:
    """SimPO too, which reads averaged log-probs."""
    trainer = trainer_class("trl.experimental.cpo.cpo_trainer", "CPOTrainer")

    def loss(pair: Pair) -> Tensor:
        w, l = (s.mean_logp if average else s.logp for s in (pair.chosen, pair.rejected))  # noqa: E741
        stub = _trainer(
            beta=beta, loss_type=loss_type, label_smoothing=smoothing, alpha=0.0, simpo_gamma=gamma, cpo_alpha=alpha
        )
        stub.cpo_loss = lambda w, l: trainer.cpo_loss(stub, w, l)  # noqa: E741
        likelihood = -pair.chosen.logp.sum() / pair.chosen.tokens.sum()
        stub.concatenated_forward = lambda *_: (w, l, w, l, likelihood)
        return trainer.get_batch_loss_metrics(stub, None, {})[0]

    return loss


def orpo(beta: float) -> Loss:
    trainer = trainer_class("trl.experimental.orpo.orpo_trainer", "ORPOTrainer")

    def loss(pair: Pair) -> Tensor:
        w, l = pair.chosen.mean_logp, pair.rejected.mean_logp  # noqa: E741
        stub = _trainer(beta=beta)
        stub.odds_ratio_loss = lambda w, l: trainer.odds_ratio_loss(stub, w, l)  # noqa: E741
        stub.concatenated_forward = lambda *_: (w, l, w, l, -w.mean())
        return trainer.get_batch_loss_metrics(stub, None, {})[0]

    return loss


def _sides(pair: Pair) -> tuple[Side, Side]:
    return pair.chosen, pair.rejected


def _trainer(**attributes: Any) -> SimpleNamespace:
    accelerator = SimpleNamespace(device="cpu", gather=lambda x: x, gather_for_metrics=lambda x: x)
    model = torch.nn.Module()
    model.is_gradient_checkpointing = False
    always = {
        "accelerator": accelerator,
        "model": model,
        "aux_loss_enabled": False,
        "precompute_ref_logps": False,
        "args": SimpleNamespace(gradient_checkpointing_kwargs=None),
        "_metrics": {"train": defaultdict(list)},
        "_total_train_tokens": 0,
        "_tp_size": 1,
    }
    return SimpleNamespace(**(always | attributes))


@dataclass(frozen=True)
class Tokens:
    """A padded batch [2P, T] after a prompt of one token, chosen completions first."""

    mask: Tensor
    logps: Tensor
    ref_logps: Tensor
    log_sum_p2: Tensor

    @classmethod
    def of(cls, pair: Pair) -> Tokens:
        """Log-probs spread over tokens so that all sums, and those of shared tokens, are those of the pairs."""
        sides = (pair.chosen, pair.rejected)
        counts = torch.cat([side.tokens for side in sides])
        shorter = torch.minimum(*(side.tokens for side in sides)).repeat(2)
        position = torch.arange(int(counts.max()))
        mask = (position < counts[:, None]).to(counts)
        shared = (position < shorter[:, None]).to(counts)
        tail = mask - shared

        def spread(total: Tensor, of_shared: Tensor) -> Tensor:
            of_shared = torch.where(counts > shorter, of_shared, total)
            rest = (total - of_shared) / (counts - shorter).clamp(min=1)
            return shared * (of_shared / shorter)[:, None] + tail * rest[:, None]

        def both(name: str) -> Tensor:
            return torch.cat([getattr(side, name) for side in sides])

        logps = spread(both("logp"), both("shared_logp"))
        ref_logps = spread(both("ref_logp"), both("shared_ref_logp"))
        return cls(mask, logps, ref_logps, logps.detach() - both("alignment")[:, None])

    def only(self, rows: Tensor) -> Tokens:
        """Of these rows, bool [2P]."""
        return Tokens(*(getattr(self, field.name)[rows] for field in fields(self)))

    def inputs(self) -> dict[str, Tensor]:
        completion_mask = torch.cat([torch.zeros_like(self.mask[:, :1]), self.mask], 1).long()
        return {
            "input_ids": torch.ones_like(completion_mask),
            "attention_mask": torch.ones_like(completion_mask),
            "completion_mask": completion_mask,
        }

    def outputs(self) -> SimpleNamespace:
        unread = torch.zeros_like(self.mask)
        return SimpleNamespace(
            log_probs=self.logps,
            log_sum_sq_probs=self.log_sum_p2,
            entropy=unread,
            mean_logits=unread,
            is_top1=unread.bool(),
        )
