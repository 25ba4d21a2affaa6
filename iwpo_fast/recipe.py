"""Reading recipes: YAML in which no setting may come twice."""

from __future__ import annotations

from dataclasses import fields
from typing import Any

import yaml
from jsonargparse import get_loader, set_loader

from iwpo_fast.config import ObjectiveConfig

MODE = "recipe"


def load_recipe(text: str) -> Any:
    """What jsonargparse's own YAML loader reads.

    Raises:
        yaml.YAMLError: malformed YAML, or a mapping that has a key twice, of which YAML would keep the last.
    """
    _refuse_twice(yaml.compose(text, Loader=yaml.SafeLoader))
    recipe = get_loader("yaml")(text)
    if isinstance(recipe, dict) and "objective" in recipe:
        recipe["objective"] = _spelled_out(recipe["objective"])
    return recipe


def _spelled_out(objective: Any) -> Any:
    """`objective: sigmoid` and `objective: {sigmoid: 0.8, sft: 1.0}` stand for settings of its name alone."""
    settings = {field.name for field in fields(ObjectiveConfig)}
    is_mixture = isinstance(objective, dict) and objective and not settings & objective.keys()
    return {"name": objective} if isinstance(objective, str) or is_mixture else objective


def _refuse_twice(node: yaml.Node | None) -> None:
    if isinstance(node, yaml.MappingNode):
        seen = set()
        for key, value in node.value:
            if key.value in seen:
                raise yaml.YAMLError(
                    f"the recipe sets {key.value} twice, again in line {key.start_mark.line + 1}: keep one of them."
                )
            seen.add(key.value)
            _refuse_twice(value)
    elif isinstance(node, yaml.SequenceNode):
        for item in node.value:
            _refuse_twice(item)


set_loader(MODE, load_recipe, exceptions=(yaml.YAMLError,))
