"""Models: loading, adapters, heads, flat attention and reference log-probs."""

from iwpo_fast.models.head import LMHead
from iwpo_fast.models.load import load_policy, load_tokenizer
from iwpo_fast.models.log_probs import log_probs_of
from iwpo_fast.models.policy import Policy

__all__ = ["LMHead", "Policy", "load_policy", "load_tokenizer", "log_probs_of"]
