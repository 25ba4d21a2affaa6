"""Memory and traffic of sharded training on paper: `python -m benchmarks.sharded_memory` prints the tables of the docs.

Arithmetic on shapes, not measurements. Assumptions are those of `docs/distributed.md`.
"""

from __future__ import annotations

from dataclasses import dataclass

GB = 1e9
DEVICES = (8, 16, 32, 64, 128, 256, 512)
RANK = 16


@dataclass(frozen=True)
class Llama:
    """Shape of a Llama 3.1, and the tokens of its micro-batches."""

    name: str
    layers: int
    hidden: int
    inner: int
    key_value: int
    tokens: int
    vocabulary: int = 128_256

    @property
    def layer(self) -> int:
        """Parameters of one layer."""
        return 2 * self.hidden * (self.hidden + self.key_value) + 3 * self.hidden * self.inner + 2 * self.hidden

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

    def state(self, devices: int, lora: bool) -> float:
        """Bytes of weights, gradients and AdamW moments on each of so many devices."""
        trained = self.adapters if lora else self.parameters
        return (16 * trained + (2 * self.parameters if lora else 0)) / devices

    def passing(self, lora: bool) -> float:
        """Bytes that come and go: embedding and head, two layers, and the largest gradients on their way."""
        gathered = 2 * (self.root + 2 * self.layer)
        return gathered if lora else gathered + 6 * max(self.root, self.layer)

    def activations(self) -> float:
        """Bytes with gradient checkpointing: the float32 input of each layer, and what one layer saves."""
        return self.tokens * (4 * self.layers * self.hidden + 2 * (7 * self.hidden + 3 * self.inner))

    def total(self, devices: int, lora: bool) -> float:
        return self.state(devices, lora) + self.passing(lora) + self.activations()

    def traffic(self, devices: int, lora: bool) -> float:
        """Bytes that each device receives for one micro-batch."""
        gathered = 2 * self.parameters + 2 * (self.parameters - self.root)
        summed = 4 * (self.adapters if lora else self.parameters)
        return (gathered + summed) * (devices - 1) / devices


MODELS = (
    Llama("8B", layers=32, hidden=4096, inner=14_336, key_value=1024, tokens=16_384),
    Llama("70B", layers=80, hidden=8192, inner=28_672, key_value=1024, tokens=8_192),
)


def main() -> None:
    heads = [f"{model.name}, {kind}" for model in MODELS for kind in ("all weights", "LoRA")]
    print(f"| GPUs | {' | '.join(heads)} |\n|---:|{'---:|' * len(heads)}")
    for devices in DEVICES:
        totals = [model.total(devices, lora) / GB for model in MODELS for lora in (False, True)]
        print(f"| {devices} | {' | '.join(f'{total:.0f}' for total in totals)} |")
    print(
        "\n| model | parameters | gathered and gradients on their way, GB | activations, GB | traffic, GB | LoRA, GB |"
    )
    print("|---|---:|---:|---:|---:|---:|")
    for model in MODELS:
        many = DEVICES[-1]
        cells = (model.passing(False), model.activations(), model.traffic(many, False), model.traffic(many, True))
        print(f"| {model.name} | {model.parameters:,} | {' | '.join(f'{cell / GB:.0f}' for cell in cells)} |")


if __name__ == "__main__":
    main()
