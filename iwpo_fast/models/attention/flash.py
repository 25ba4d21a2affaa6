"""Flash attention over sequences of any lengths in one launch: flash-attn 3 and 2, and PyTorch's varlen attention."""

from __future__ import annotations

import importlib
import inspect
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.nn.attention.varlen import varlen_attn

from iwpo_fast.data.row_files import first_line
from iwpo_fast.models.attention.metadata import AttentionMetadata, CannotRunFlat, Options

PACKAGES = {"flash_attn_3": "flash_attn_interface", "flash_attn_2": "flash_attn"}
"""Modules of flash-attn: version 3 comes from the folder `hopper` of its repository, version 2 from PyPI."""

VARLEN_TAKES_GROUPS = "enable_gqa" in inspect.signature(varlen_attn).parameters
"""Whether this PyTorch's varlen attention can be told that it has fewer key than query heads; 2.11's cannot.

Its kernels support groups, but it may silently hand over to cuDNN, for which summing the gradients of a group is not
documented; so keys and values are repeated.
"""


def flash_attn_3(query: Tensor, key: Tensor, value: Tensor, metadata: AttentionMetadata, options: Options) -> Tensor:
    """query [W, Hq, D], key and value [W, Hkv, D] → [W, Hq, D], with sliding windows and softcap."""
    if torch.are_deterministic_algorithms_enabled() and query.shape[-1] > 192:
        raise CannotRunFlat("flash_attn_3 has no deterministic backward pass for heads larger than 192")
    return _flash_attn("flash_attn_3", query, key, value, metadata, options)


def flash_attn_2(query: Tensor, key: Tensor, value: Tensor, metadata: AttentionMetadata, options: Options) -> Tensor:
    """Shapes and abilities as `flash_attn_3`."""
    return _flash_attn("flash_attn_2", query, key, value, metadata, options)


def varlen(query: Tensor, key: Tensor, value: Tensor, metadata: AttentionMetadata, options: Options) -> Tensor:
    """Shapes as `flash_attn_3`; with sliding windows, but without softcap."""
    if options.softcap is not None:
        raise CannotRunFlat("PyTorch's varlen attention has no softcap")
    arguments: dict[str, Any] = {"scale": options.scale, "window_size": _window_size(options)}
    groups = query.shape[1] // key.shape[1]
    if groups > 1 and VARLEN_TAKES_GROUPS:
        arguments["enable_gqa"] = True
    elif groups > 1:
        key, value = key.repeat_interleave(groups, dim=1), value.repeat_interleave(groups, dim=1)
    return _launch(varlen_attn, query, key, value, metadata, arguments)


def why_not_installed(backend: str) -> str | None:
    """Why flash-attn cannot be had for `backend`, or None; imports it, which only a GPU's runs should pay for."""
    module = PACKAGES[backend]
    try:
        function = importlib.import_module(module).flash_attn_varlen_func
    except ModuleNotFoundError:
        return f"{module} is not installed"
    except (ImportError, AttributeError, OSError) as error:
        return f"{module} cannot be imported ({first_line(error)})"
    return None if "softcap" in inspect.signature(function).parameters else f"{module} is older than 2.6"


def _flash_attn(
    backend: str, query: Tensor, key: Tensor, value: Tensor, metadata: AttentionMetadata, options: Options
) -> Tensor:
    arguments = {
        "softmax_scale": options.scale,
        "causal": True,
        "window_size": _window_size(options),
        "softcap": options.softcap or 0.0,
        "deterministic": torch.are_deterministic_algorithms_enabled(),
    }
    function = importlib.import_module(PACKAGES[backend]).flash_attn_varlen_func
    return _launch(function, query, key, value, metadata, arguments)


def _window_size(options: Options) -> tuple[int, int]:
    """How many tokens a query sees to its left and to its right, its own not counted; -1 for all."""
    return (-1 if options.window is None else options.window - 1, 0)


def _launch(
    function: Callable[..., Any],
    query: Tensor,
    key: Tensor,
    value: Tensor,
    metadata: AttentionMetadata,
    arguments: dict[str, Any],
) -> Tensor:
    if query.shape[-1] != value.shape[-1] or query.shape[-1] > 256:
        raise CannotRunFlat("flash attention wants heads of one size, at most 256")
    bounds, longest = metadata.cu_seqlens, metadata.max_seqlen
    of_queries, longest_queries = bounds, longest
    if metadata.cu_queries is not None:  # Causal masks of these kernels let the last query see the last key.
        of_queries, longest_queries = metadata.cu_queries, metadata.max_queries
    try:
        out = function(query, key, value, of_queries, bounds, longest_queries, longest, **arguments)
    except (torch.OutOfMemoryError, torch.AcceleratorError):  # of the device, not of what was asked for
        raise
    except RuntimeError as error:  # Builds differ in the GPUs, head sizes and options that they have kernels for.
        raise CannotRunFlat(f"{function.__name__} refuses it ({first_line(error)})") from error
    return out[0] if isinstance(out, tuple) else out  # Some releases of version 3 give the log-sum-exp too.
