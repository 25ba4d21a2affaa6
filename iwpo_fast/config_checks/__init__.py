"""Rules between the settings of a configuration, each a sentence on what is set, why it cannot work, and what to set.

What a single setting may be stands beside its field (`iwpo_fast.limits`). What depends on data, on a model or on the
processes of a job is checked where these are read.
"""

from iwpo_fast.config_checks.all import check_config
from iwpo_fast.config_checks.labels import leaves_room
from iwpo_fast.config_checks.model import check_model_settings, check_tiny
from iwpo_fast.config_checks.rewards import check_reward_settings
from iwpo_fast.config_checks.weights import READ_BY, check_weight_settings

__all__ = [
    "READ_BY",
    "check_config",
    "check_model_settings",
    "check_reward_settings",
    "check_tiny",
    "check_weight_settings",
    "leaves_room",
]
