"""What a benchmark is made of: shapes, the problem each gives rise to, and the variants that solve it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib import import_module
from typing import Any

import torch
from torch import Tensor

SUITES = ("linear_token_logps", "token_logps", "weighted_preference")
Run = Callable[[], tuple[Tensor, ...]]

# Largest ‖value − reference‖ / ‖reference‖ of a result that counts as right. 16-bit results are compared with
# float32 arithmetic on the same inputs, so this is the rounding of all 16-bit peers, not of the best one.
TOLERANCE = {torch.float32: 1e-4, torch.bfloat16: 5e-2, torch.float16: 2e-2}


@dataclass(frozen=True)
class Shape:
    """Sizes of one problem.

    Attributes:
        name: as given to `--shapes`.
        sequences: 2 per pair; the chosen ones come first.
        tokens: per sequence, prompt included.
        hidden: H.
        vocab: V.
        supervised: share of each sequence that is not prompt.
        softcap: of the logits, or None.
        dtype: of hidden states, head and logits.
    """

    name: str
    sequences: int
    tokens: int
    hidden: int
    vocab: int
    supervised: float = 1.0
    softcap: float | None = None
    dtype: torch.dtype = torch.bfloat16

    @property
    def total_tokens(self) -> int:
        return self.sequences * self.tokens

    @property
    def supervised_tokens(self) -> int:
        return self.sequences * self.supervised_per_sequence

    @property
    def supervised_per_sequence(self) -> int:
        return round(self.tokens * self.supervised)

    def as_dict(self) -> dict[str, Any]:
        return vars(self) | {"dtype": str(self.dtype).removeprefix("torch.")}

    @classmethod
    def from_dict(cls, fields: dict[str, Any]) -> Shape:
        """The reverse of `as_dict`."""
        return cls(**fields | {"dtype": getattr(torch, fields["dtype"])})


@dataclass(frozen=True)
class Variant:
    """One way to solve a suite's problem.

    Attributes:
        label: library and what is special about this use of it.
        library: "ours", "torch" (PyTorch alone), a peer's name, or "floor".
        mode: which gradients are made; results of one mode are comparable.
        prepare: imports, allocates and returns the call that is timed; the call returns result and gradients.
            Raises ImportError where the library is absent or cannot run on the device.
        floor: label of the floor that its time is set against, in the same mode.
        note: what the reader of the table has to know.
        objective: what is computed, where the suite's variants do not all compute the same.
    """

    label: str
    library: str
    mode: str
    prepare: Callable[[Any], Run]
    floor: str = "floor"
    note: str = ""
    objective: str = ""

    @property
    def key(self) -> str:
        return f"{self.label} [{self.mode}]"

    @property
    def task(self) -> tuple[str, str]:
        """Variants of one task have the same results."""
        return self.mode, self.objective

    @property
    def is_floor(self) -> bool:
        return self.library == "floor"


@dataclass(frozen=True)
class Suite:
    """Variants of one operator and the shapes that they run at.

    Attributes:
        name: folder under `benchmarks/`.
        baseline: label of the variant that every other is compared with.
        shapes: of a device type ("cpu", "cuda"), most important first.
        build: problem of a shape, on a device, from a seed.
        variants: all of them, floors included.
        reference: right results of a variant on a problem, from float32 arithmetic; None for a floor.
        size_of: bytes of the inputs of a shape.
    """

    name: str
    baseline: str
    shapes: Callable[[str], Sequence[Shape]]
    build: Callable[[Shape, torch.device, int], Any]
    variants: tuple[Variant, ...]
    reference: Callable[[Any, Variant], tuple[Tensor, ...]]
    size_of: Callable[[Shape], int]

    def variant(self, key: str) -> Variant:
        return next(variant for variant in self.variants if variant.key == key)


def suite(name: str) -> Suite:
    return import_module(f"benchmarks.{name}.variants").SUITE


def relative_errors(results: Sequence[Tensor], references: Sequence[Tensor]) -> list[float]:
    """‖result − reference‖ / ‖reference‖ of each pair, in float32; infinite where a result is not finite."""
    assert len(results) == len(references), "a variant returns what its reference returns"
    return [_relative_error(result, reference) for result, reference in zip(results, references, strict=True)]


def _relative_error(result: Tensor, reference: Tensor) -> float:
    difference = torch.linalg.vector_norm(result.float() - reference.float())
    error = float(difference / torch.linalg.vector_norm(reference.float()))
    return error if error == error else float("inf")
