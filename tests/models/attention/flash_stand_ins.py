"""Stand-ins for flash attention: they take the arguments of each version, check them, and compute exactly."""

from __future__ import annotations

import inspect
import sys
from types import ModuleType
from typing import Any

import pytest
import torch
from torch import Tensor

from iwpo_fast.models.attention.flash import PACKAGES


def checked_attention(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    bounds: tuple[Tensor, Tensor],
    longest: tuple[int, int],
    scale: float | None,
    window: tuple[int, int],
    softcap: float = 0.0,
) -> Tensor:
    """Flash attention as flash-attn documents it, one sequence at a time: window and causality end at its last key.

    Query i of n sees the keys from i + m - n - window[0] to i + m - n + window[1] of m inclusive; -1 is no bound.
    """
    assert q.dtype == k.dtype == v.dtype and q.stride(-1) == k.stride(-1) == v.stride(-1) == 1
    for cu, most, there in zip(bounds, longest, (q, k), strict=True):
        assert cu.dtype == torch.int32 and cu[0] == 0 and cu[-1] == len(there) and most == cu.diff().max()
    assert len(k) == len(v)
    assert window[1] == 0, "causal"
    groups, outputs = q.shape[1] // k.shape[1], []
    parts = (x.split(cu.diff().tolist()) for x, cu in zip((q, k, v), (*bounds, bounds[1]), strict=True))
    for part in zip(*parts, strict=True):
        one, keys, values = (x.double().transpose(0, 1) for x in part)
        keys, values = keys.repeat_interleave(groups, 0), values.repeat_interleave(groups, 0)
        scores = one @ keys.transpose(1, 2) * (q.shape[-1] ** -0.5 if scale is None else scale)
        if softcap > 0:
            scores = softcap * (scores / softcap).tanh()
        i, j = torch.arange(-one.shape[1], 0)[:, None] + keys.shape[1], torch.arange(keys.shape[1])[None]
        seen = (j <= i + window[1]) & (j >= (i - window[0] if window[0] >= 0 else 0))
        outputs.append((scores.masked_fill(~seen, -torch.inf).softmax(-1) @ values).transpose(0, 1))
    return torch.cat(outputs).to(q.dtype)


def version_2(
    q: Any, k: Any, v: Any, cu_seqlens_q: Any, cu_seqlens_k: Any, max_seqlen_q: int, max_seqlen_k: int,
    dropout_p: float = 0.0, softmax_scale: float | None = None, causal: bool = False,
    window_size: tuple[int, int] = (-1, -1), softcap: float = 0.0, alibi_slopes: Any = None,
    deterministic: bool = False, return_attn_probs: bool = False, block_table: Any = None,
) -> Tensor:  # fmt: skip
    assert causal and dropout_p == 0 and alibi_slopes is None and not return_attn_probs and block_table is None
    assert deterministic == torch.are_deterministic_algorithms_enabled()
    bounds, longest = (cu_seqlens_q, cu_seqlens_k), (max_seqlen_q, max_seqlen_k)
    return checked_attention(q, k, v, bounds, longest, softmax_scale, window_size, softcap)


def version_3(
    q: Any, k: Any, v: Any, cu_seqlens_q: Any, cu_seqlens_k: Any, max_seqlen_q: int, max_seqlen_k: int,
    seqused_q: Any = None, seqused_k: Any = None, softmax_scale: float | None = None, causal: bool = False,
    qv: Any = None, q_descale: Any = None, k_descale: Any = None, v_descale: Any = None,
    window_size: tuple[int, int] = (-1, -1), attention_chunk: int = 0, softcap: float = 0.0, num_splits: int = 1,
    pack_gqa: Any = None, deterministic: bool = False, sm_margin: int = 0, return_attn_probs: bool = False,
) -> Tensor:  # fmt: skip
    assert causal and seqused_q is seqused_k is qv is None and attention_chunk == 0 and not return_attn_probs
    assert deterministic == torch.are_deterministic_algorithms_enabled()
    bounds, longest = (cu_seqlens_q, cu_seqlens_k), (max_seqlen_q, max_seqlen_k)
    return checked_attention(q, k, v, bounds, longest, softmax_scale, window_size, softcap)


def version_3_with_log_sum_exp(*args: Any, **kwargs: Any) -> tuple[Tensor, None]:
    return version_3(*args, **kwargs), None


version_3_with_log_sum_exp.__signature__ = inspect.signature(version_3)  # type: ignore[attr-defined]

VERSIONS = {"flash_attn_2": [version_2], "flash_attn_3": [version_3, version_3_with_log_sum_exp]}


def install(monkeypatch: pytest.MonkeyPatch, backend: str, function: Any) -> None:
    module = ModuleType(PACKAGES[backend])
    module.flash_attn_varlen_func = function  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, PACKAGES[backend], module)
