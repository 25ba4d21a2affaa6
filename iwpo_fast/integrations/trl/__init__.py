"""Inside TRL: importance weights in its DPO trainer, and this library's operator in all its trainers.

`WeightedDPOTrainer` is `trl.DPOTrainer` with a weight for every pair and all of this library's objectives;
`patch_trl` puts `linear_token_logps` where TRL computes log-probs.
"""

from importlib.util import find_spec

if find_spec("trl") is None:
    raise ImportError("TRL is not installed: install it, 1.16 or later, as the extra `trl` of iwpo-fast does.")

from iwpo_fast.integrations.trl.collator import WeightedPreferenceCollator
from iwpo_fast.integrations.trl.head import fused_head, patch_trl, unpatch_trl
from iwpo_fast.integrations.trl.trainer import WeightedDPOTrainer

__all__ = ["WeightedDPOTrainer", "WeightedPreferenceCollator", "fused_head", "patch_trl", "unpatch_trl"]
