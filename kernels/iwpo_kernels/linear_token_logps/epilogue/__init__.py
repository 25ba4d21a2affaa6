"""Exponentials in the epilogue of the product: the pass without gradient, and the first product of a frozen head."""

from iwpo_kernels.linear_token_logps.epilogue.architecture import architecture
from iwpo_kernels.linear_token_logps.epilogue.launch import serves, stream_slice
from iwpo_kernels.linear_token_logps.epilogue.tiles import pays

__all__ = ["architecture", "pays", "serves", "stream_slice"]
