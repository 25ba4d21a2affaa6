"""Numbers with their nouns."""

from __future__ import annotations


def several(number: int, noun: str, ending: str = "s") -> str:
    """`1 pair`, `1,234 pairs`: the noun takes the ending unless the number is 1."""
    return f"{number:,} {noun}{'' if number == 1 else ending}"
