"""Padded batches [2B, T, H], chosen sequences first, with the call of Liger's fused DPO loss."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from functools import lru_cache
from typing import NamedTuple

import torch
from torch import Tensor

from iwpo_kernels.checks import check, check_device, check_number, check_positive, check_switch, check_tensor
from iwpo_kernels.constants import IGNORED
from iwpo_kernels.linear_preference.reward_losses import LOSSES, Settings, pair_losses
from iwpo_kernels.linear_token_logps import linear_token_logps
from iwpo_kernels.linear_token_logps.types import exact_dtype
from iwpo_kernels.weighted_preference import weighted_preference_loss
from iwpo_kernels.weighted_preference.op import check_options
from iwpo_kernels.weighted_preference.types import Form

_FORMS: dict[str, Form] = {"sigmoid": "sigmoid", "hinge": "hinge", "ipo": "squared"}
LOSS_TYPES = (*_FORMS, *LOSSES)


class PaddedMetrics(NamedTuple):
    """Second result of `PaddedLinearPreferenceLoss`, without gradient, in the order of Liger's.

    Attributes:
        chosen_logps: [B], sums over tokens; means if `average_log_prob`.
        rejected_logps: [B], likewise.
        chosen_logits_mean: mean logit over all positions, masked ones too, and the vocabulary.
        rejected_logits_mean: likewise.
        nll_loss: mean −log p of the chosen tokens, 0 unless `compute_nll_loss`.
        chosen_rewards: [B], beta · (logps − reference logps).
        rejected_rewards: [B], likewise.
    """

    chosen_logps: Tensor
    rejected_logps: Tensor
    chosen_logits_mean: Tensor
    rejected_logits_mean: Tensor
    nll_loss: Tensor
    chosen_rewards: Tensor
    rejected_rewards: Tensor


class PaddedLinearPreferenceLoss(torch.nn.Module):
    """Preference loss of padded batches; stands in for `liger_kernel`'s `LigerFusedLinearDPOLoss`.

    Made, called and answered like it: `loss, metrics = loss_fn(lm_head.weight, hidden, labels, bias, ref_hidden,
    ref_weight)`. Beyond it: weights per pair, cached reference log-probs, "ipo", and label smoothing that acts on
    every loss (Liger ignores it for all but "exo_pair" and "robust").
    Under autocast, hidden states and head are cast as for any linear layer.
    For heads with a softcap or a scale use `LinearPreferenceLoss` on the flattened batch, with `padded_segments`.

    Args:
        ignore_index: label of tokens that do not count, beside -100, which never does.
        beta: strength of the pull towards the reference.
        alpha: see compute_nll_loss.
        compute_nll_loss: add alpha times the mean −log p of the chosen tokens to the loss.
        compiled, chunk_size: Liger's, with nothing to set here; a value of one's own is answered by one warning.
        use_ref_model: compare with a reference, given in each call.
        average_log_prob: sequences count by their mean over tokens instead of the sum.
        loss_type: "sigmoid", "hinge" or "ipo" (TRL's "ipo" is that with `average_log_prob`), made by the fused
            operator, or one of `reward_losses`.
        label_smoothing: probability in [0, 1) that a label is flipped; what "exo_pair" (above 0) and "robust" (below
            1/2) call ε.
        discopop_tau: temperature of the gate of "discopop".

    Raises:
        TypeError, ValueError: an option is of another kind, or out of range.
    """

    def __init__(
        self,
        ignore_index: int = IGNORED,
        beta: float = 0.1,
        alpha: float = 1.0,
        compute_nll_loss: bool = False,
        compiled: bool = True,
        use_ref_model: bool = True,
        average_log_prob: bool = False,
        chunk_size: int = 1,
        loss_type: str = "sigmoid",
        label_smoothing: float = 0.0,
        discopop_tau: float = 0.05,
    ) -> None:
        super().__init__()
        check(
            isinstance(loss_type, str) and loss_type in LOSS_TYPES,
            f"loss_type is {loss_type!r}: pass one of {', '.join(LOSS_TYPES)}.",
        )
        check_options(_FORMS.get(loss_type, "sigmoid"), beta, label_smoothing)
        check(loss_type != "exo_pair" or label_smoothing > 0, "exo_pair needs a label_smoothing above 0: pass 1e-3.")
        check(
            loss_type != "robust" or label_smoothing < 0.5,
            f"label_smoothing is {label_smoothing}: robust is defined below 0.5, pass less.",
        )
        check_positive("discopop_tau", discopop_tau)
        _name_what_has_no_effect(compiled, chunk_size)
        for name, value in (
            ("average_log_prob", average_log_prob),
            ("use_ref_model", use_ref_model),
            ("compute_nll_loss", compute_nll_loss),
        ):
            check_switch(name, value)
        check_number("alpha", alpha)
        check(
            isinstance(ignore_index, int) and -(2**63) <= ignore_index < 2**63,
            f"ignore_index is {ignore_index!r}: pass a label, a whole number.",
        )
        self.beta = beta
        self.loss_type = loss_type
        self.label_smoothing = label_smoothing
        self.average_log_prob = average_log_prob
        self.use_ref_model = use_ref_model
        self.compute_nll_loss = compute_nll_loss
        self.alpha = alpha
        self.ignore_index = ignore_index
        self.discopop_tau = discopop_tau

    def forward(
        self,
        lin_weight: Tensor,
        _input: Tensor,
        target: Tensor,
        bias: Tensor | None = None,
        ref_input: Tensor | None = None,
        ref_weight: Tensor | None = None,
        ref_bias: Tensor | None = None,
        *,
        ref_logps: Tensor | None = None,
        pair_weights: Tensor | None = None,
    ) -> tuple[Tensor, PaddedMetrics]:
        """Loss, and metrics without gradient.

        Args:
            lin_weight: [V, H], the head, as for `linear_token_logps`.
            _input: [2B, T, H], hidden states of B chosen and then B rejected sequences.
            target: int64 [2B, T], the token that each hidden state predicts: already shifted by the caller, as for
                Liger. Tokens equal to `ignore_index` are skipped and cost nothing.
            bias: [V] or None.
            ref_input: [2B, T, H_ref], hidden states of the reference model.
            ref_weight: [V, H_ref], its head; ref_bias: [V] or None.
            ref_logps: float32 [2B], reference log-probs summed over tokens, instead of the three above.
            pair_weights: float32 [B], importance weight of each pair. None means 1. The NLL term is not weighted.

        Raises:
            TypeError: an argument is no tensor, or a sparse one.
            ValueError: shapes do not fit, a reference is missing or is given twice, or as the operators do.
        """
        _check_layout(_input, target)
        labels = target.masked_fill(target == self.ignore_index, IGNORED)
        lengths = (labels != IGNORED).sum(1)
        ref_logps = self._reference(ref_input, ref_weight, ref_bias, ref_logps, labels)
        logps = _token_logps(_input, lin_weight, labels, bias)
        fused = self.loss_type in _FORMS
        output = weighted_preference_loss(
            logps.flatten(),
            padded_segments(labels),
            ref_logps,
            pair_weights,
            form=_FORMS[self.loss_type] if fused else "sigmoid",
            beta=self.beta,
            label_smoothing=self.label_smoothing,
            average=self.average_log_prob,
            lengths=lengths if self.average_log_prob else None,
        )
        loss = output.loss if fused else self._loss_of_rewards(logps, ref_logps, lengths, pair_weights)
        nll_loss = torch.zeros_like(loss)
        if self.compute_nll_loss:
            nll_loss = -logps.chunk(2)[0].sum() / lengths.chunk(2)[0].sum().clamp(min=1)
            loss = loss + self.alpha * nll_loss
        return loss, self._metrics(output.sequence_logps, ref_logps, lengths, nll_loss, _input, lin_weight, bias)

    def _loss_of_rewards(
        self, logps: Tensor, ref_logps: Tensor | None, lengths: Tensor, pair_weights: Tensor | None
    ) -> Tensor:
        """Weighted mean over the pairs of a loss that the operator does not have; the operator has checked all."""
        ratios = logps.sum(1, dtype=torch.float64)
        if ref_logps is not None:
            ratios = ratios - ref_logps
        if self.average_log_prob:
            ratios = ratios / lengths.clamp(min=1)
        weights = torch.ones_like(ratios.chunk(2)[0]) if pair_weights is None else pair_weights.detach()
        chosen, rejected = (self.beta * ratios).where(weights.repeat(2) > 0, 0).chunk(2)
        settings = Settings(self.beta, self.label_smoothing, self.discopop_tau)
        return (weights * pair_losses(self.loss_type, chosen, rejected, settings)).mean().to(logps.dtype)

    def _reference(
        self, hidden: Tensor | None, weight: Tensor | None, bias: Tensor | None, logps: Tensor | None, labels: Tensor
    ) -> Tensor | None:
        model_given = not (hidden is None and weight is None and bias is None)
        if not self.use_ref_model:
            check(
                logps is None and not model_given,
                "a reference is given but use_ref_model is False: leave it out, or set use_ref_model=True.",
            )
            return None
        if logps is not None:
            check(not model_given, "both ref_logps and a reference model are given: pass one of them.")
            return logps
        if hidden is None or weight is None:
            raise ValueError(
                "use_ref_model is True but no reference is given: pass ref_input and ref_weight, or ref_logps, "
                "or set use_ref_model=False."
            )
        return _reference_logps(hidden, weight, bias, labels)

    @torch.no_grad()
    def _metrics(
        self,
        sequence_logps: Tensor,
        ref_logps: Tensor | None,
        lengths: Tensor,
        nll_loss: Tensor,
        hidden: Tensor,
        weight: Tensor,
        bias: Tensor | None,
    ) -> PaddedMetrics:
        divisor = lengths.clamp(min=1) if self.average_log_prob else 1
        ratios = sequence_logps if ref_logps is None else sequence_logps - ref_logps
        chosen_logps, rejected_logps = (sequence_logps / divisor).chunk(2)
        chosen_rewards, rejected_rewards = (self.beta * ratios / divisor).chunk(2)
        chosen_hidden, rejected_hidden = hidden.chunk(2)
        mean_logit = _mean_logit_of(weight, bias, exact_dtype(hidden.dtype))
        return PaddedMetrics(
            chosen_logps,
            rejected_logps,
            mean_logit(chosen_hidden),
            mean_logit(rejected_hidden),
            nll_loss.detach(),
            chosen_rewards,
            rejected_rewards,
        )

    def extra_repr(self) -> str:
        return f"loss_type={self.loss_type}, beta={self.beta}, label_smoothing={self.label_smoothing}"


@lru_cache
def _name_what_has_no_effect(compiled: bool, chunk_size: int) -> None:
    """Once for each couple of values, and never for Liger's own defaults."""
    if not compiled or chunk_size != 1:
        warnings.warn(
            "compiled and chunk_size have no effect: the operator is not compiled, and cuts its work by workspace_mb.",
            stacklevel=3,
        )


def padded_segments(labels: Tensor) -> Tensor:
    """Offsets int64 [S + 1] of the rows of labels [S, T] in labels.flatten()."""
    check_tensor("labels", labels)
    check(labels.ndim == 2, f"labels has {labels.ndim} dimensions: pass one row for each sequence, [S, T].")
    sequences, length = labels.shape
    return torch.arange(sequences + 1, device=labels.device) * length


def _check_layout(hidden: Tensor, target: Tensor) -> None:
    check_tensor("_input", hidden)
    check_tensor("target", target)
    check(
        hidden.ndim == 3 and hidden.shape[0] % 2 == 0 and hidden.shape[0] > 0,
        f"_input has shape {list(hidden.shape)}: pass [2B, T, H], the chosen sequences before the rejected ones.",
    )
    check(
        target.shape == hidden.shape[:2],
        f"target has shape {list(target.shape)} and _input {list(hidden.shape)}: pass target [2B, T].",
    )
    check(target.dtype == torch.int64, f"target is {target.dtype}: pass target.long().")
    check_device("target", target, hidden)


def _token_logps(hidden: Tensor, weight: Tensor, labels: Tensor, bias: Tensor | None) -> Tensor:
    check_tensor("lin_weight", weight)
    return linear_token_logps(hidden, weight, labels, bias=bias)


@torch.no_grad()
def _reference_logps(hidden: Tensor, weight: Tensor, bias: Tensor | None, labels: Tensor) -> Tensor:
    check_tensor("ref_input", hidden)
    check(
        hidden.ndim == 3 and hidden.shape[:2] == labels.shape,
        f"ref_input has shape {list(hidden.shape)}: pass [2B, T, H] with the 2B and T of _input.",
    )
    logps = _token_logps(hidden, weight, labels, bias)
    return logps.sum(1, dtype=torch.float64).to(logps.dtype)


def _mean_logit_of(weight: Tensor, bias: Tensor | None, dtype: torch.dtype) -> Callable[[Tensor], Tensor]:
    """Mean of h Wᵀ + b over positions and vocabulary: the product of the means, as logits are linear in both."""
    row = weight.mean(0, dtype=dtype)
    shift = 0.0 if bias is None else bias.mean(dtype=dtype)

    def mean_logit(hidden: Tensor) -> Tensor:
        return (hidden.mean((0, 1), dtype=dtype) * row).sum() + shift  # autocast would round `@`

    return mean_logit
