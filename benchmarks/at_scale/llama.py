"""The models, and how many parameters of which kind they have."""

from __future__ import annotations

from dataclasses import dataclass

RANK = 16


@dataclass(frozen=True)
class Llama:
    """Shape of a Llama 3.1.

    Attributes:
        key_value: width of the keys, which is that of the values.
        tokens: of a micro-batch.
    """

    name: str
    layers: int
    hidden: int
    inner: int
    key_value: int
    tokens: int
    vocabulary: int = 128_256

    @property
    def matrices(self) -> int:
        """Parameters of the matrices of one layer."""
        return 2 * self.hidden * (self.hidden + self.key_value) + 3 * self.hidden * self.inner

    @property
    def layer(self) -> int:
        """Parameters of one layer, its two norms included."""
        return self.matrices + 2 * self.hidden

    @property
    def root(self) -> int:
        """Parameters of embedding, head and last norm."""
        return 2 * self.vocabulary * self.hidden + self.hidden

    @property
    def parameters(self) -> int:
        return self.layers * self.layer + self.root

    @property
    def adapters(self) -> int:
        """Parameters of LoRA on all linear layers but the head."""
        sides = 2 * (self.hidden + self.hidden) + 2 * (self.hidden + self.key_value) + 3 * (self.hidden + self.inner)
        return RANK * self.layers * sides

    def trained(self, lora: bool) -> int:
        return self.adapters if lora else self.parameters


MODELS = (
    Llama("8B", layers=32, hidden=4096, inner=14_336, key_value=1024, tokens=16_384),
    Llama("70B", layers=80, hidden=8192, inner=28_672, key_value=1024, tokens=8_192),
)
