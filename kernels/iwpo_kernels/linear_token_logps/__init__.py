"""Per-token log-probs from hidden states and the head's weight, without logits."""

from iwpo_kernels.linear_token_logps.naive import naive_linear_token_logps, naive_linear_token_statistics
from iwpo_kernels.linear_token_logps.op import linear_token_logps, linear_token_statistics
from iwpo_kernels.linear_token_logps.types import TokenStatistics

__all__ = [
    "TokenStatistics",
    "linear_token_logps",
    "linear_token_statistics",
    "naive_linear_token_logps",
    "naive_linear_token_statistics",
]
