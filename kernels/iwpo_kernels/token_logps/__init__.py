"""Per-token log-probs from logits."""

from iwpo_kernels.token_logps.naive import naive_token_logps
from iwpo_kernels.token_logps.op import token_logps

__all__ = ["naive_token_logps", "token_logps"]
