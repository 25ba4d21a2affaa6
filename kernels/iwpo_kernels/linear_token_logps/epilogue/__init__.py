"""Exponentials in the epilogue of the product: the pass without gradient, and the first product of a frozen head."""

from iwpo_kernels.linear_token_logps.epilogue.launch import serves, stream_slice

__all__ = ["serves", "stream_slice"]
