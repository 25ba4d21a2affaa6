"""Reading recipes: YAML in which no setting may come twice."""

from __future__ import annotations

from dataclasses import fields
from typing import Any

import yaml
from jsonargparse import get_loader, set_loader

from iwpo_fast.config import ObjectiveConfig

MODE = "recipe"
MOST_VALUES = 100_000
"""Of a recipe, each alias counted as all that it stands for."""
MOST_LEVELS = 100
"""Of nesting; the time that YAML takes grows with their square."""


class _Composer(yaml.SafeLoader):
    """Stops at too many levels."""

    levels = 0

    def compose_node(self, parent: yaml.Node | None, index: int) -> yaml.Node | None:
        self.levels += 1
        if self.levels > MOST_LEVELS:
            raise yaml.YAMLError("the recipe is nested too deeply: write it with fewer levels.")
        node: yaml.Node | None = super().compose_node(parent, index)
        self.levels -= 1
        return node


def load_recipe(text: str) -> Any:
    """What jsonargparse's own YAML loader reads.

    Raises:
        yaml.YAMLError: malformed YAML, a mapping that has a key twice, of which YAML would keep the last, more levels
            than a recipe has, or aliases that stand for more values.
    """
    try:
        _size_of(yaml.compose(text, Loader=_Composer), {})
        recipe = get_loader("yaml")(text)
    except (ValueError, OverflowError, IndexError) as error:  # such as a number of too many digits, or of none
        raise yaml.YAMLError(f"the recipe has a value that cannot be ({error}): correct it.") from None
    if isinstance(recipe, dict) and "objective" in recipe:
        recipe["objective"] = _spelled_out(recipe["objective"])
    return recipe


def _spelled_out(objective: Any) -> Any:
    """`objective: sigmoid` and `objective: {sigmoid: 0.8, sft: 1.0}` stand for settings of its name alone."""
    settings = {field.name for field in fields(ObjectiveConfig)}
    is_mixture = isinstance(objective, dict) and objective and not settings & objective.keys()
    return {"name": objective} if isinstance(objective, str) or is_mixture else objective


def _size_of(node: yaml.Node | None, known: dict[int, int]) -> int:
    """How many values a node stands for, those of its aliases among them; a key that is there twice is refused.

    Args:
        known: of nodes that were seen, because an alias is the node that it names; 0 while one is being looked into.
    """
    if node is None or isinstance(node, yaml.ScalarNode):
        return 1
    if id(node) not in known:
        known[id(node)] = 0
        if isinstance(node, yaml.MappingNode):
            _refuse_twice(node)
        parts = [part for pair in node.value for part in pair] if isinstance(node, yaml.MappingNode) else node.value
        known[id(node)] = 1 + sum(_size_of(part, known) for part in parts)
    if not 0 < known[id(node)] <= MOST_VALUES:
        raise yaml.YAMLError(f"the recipe has aliases for more than {MOST_VALUES:,} values: write them out.")
    return known[id(node)]


def _refuse_twice(node: yaml.MappingNode) -> None:
    seen = set()
    for key, _ in node.value:
        if not isinstance(key, yaml.ScalarNode):
            continue
        if key.value in seen:
            raise yaml.YAMLError(
                f"the recipe sets {key.value} twice, again in line {key.start_mark.line + 1}: keep one of them."
            )
        seen.add(key.value)


set_loader(MODE, load_recipe, exceptions=(yaml.YAMLError,))
