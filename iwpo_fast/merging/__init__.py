"""The command `iwpo merge`: an adapter in the weights of its base."""

from iwpo_fast.merging.command import merge_adapter

__all__ = ["merge_adapter"]
