"""Preference objectives: pure functions from margins to one loss per pair, without weights and without reduction."""

from iwpo_fast.objectives.registry import OBJECTIVES, Objective, get_objective

__all__ = ["OBJECTIVES", "Objective", "get_objective"]
