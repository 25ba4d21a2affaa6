"""Every kind of heads, by the name that settings and records have for it."""

from __future__ import annotations

from iwpo_fast.rewards.distribution_heads import DistributionHeads
from iwpo_fast.rewards.linear_heads import LinearHeads
from iwpo_fast.rewards.network_heads import NetworkHeads
from iwpo_fast.rewards.preference_heads import PreferenceHeads

Heads = LinearHeads | NetworkHeads | PreferenceHeads | DistributionHeads
"""Heads that give rewards to features: `folds` times `members` of them."""

HEADS: dict[str, type[Heads]] = {
    heads.kind: heads for heads in (LinearHeads, NetworkHeads, PreferenceHeads, DistributionHeads)
}
