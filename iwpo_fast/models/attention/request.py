"""What a layer of the model asks of attention, and the refusal of what flat batches do not offer."""

from __future__ import annotations

from typing import NamedTuple


class CannotRunFlat(Exception):
    """The model wants something of attention that flat batches, or a backend, do not offer; the message says what."""


class Request(NamedTuple):
    """How a layer makes weights of the products of queries and keys.

    Attributes:
        scale: factor on the products; None takes 1/√D for heads of size D.
        window: how many tokens a query sees, its own and those just before it; None lets it see all before it.
        softcap: scores become softcap · tanh(score / softcap); None leaves them alone.
    """

    scale: float | None = None
    window: int | None = None
    softcap: float | None = None


def first_line(error: Exception) -> str:
    """The message of an error, or else its name, as part of a sentence."""
    return (str(error).splitlines() or [type(error).__name__])[0].rstrip(".")
