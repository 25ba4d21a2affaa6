"""`python -m benchmarks.at_scale` prints the tables of `docs/distributed.md`."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from benchmarks.at_scale.llama import MODELS, Llama
from benchmarks.at_scale.memory import activations, passing, total
from benchmarks.at_scale.step_time import PARTS, Device, Step, bounds, flops
from benchmarks.at_scale.traffic import MACHINE, Network, received

GB = 1e9
DEVICES = (8, 16, 32, 64, 128, 256, 512)
KINDS = tuple((model, lora) for model in MODELS for lora in (False, True))


def main() -> None:
    tables = (memory_table, parts_table, operations_table, time_table)
    print("\n\n".join("\n".join(table()) for table in tables))


def memory_table() -> list[str]:
    rows = (
        [str(devices), *(f"{total(model, devices, lora) / GB:.0f}" for model, lora in KINDS)] for devices in DEVICES
    )
    return _table(["GPUs", *map(_name, KINDS)], rows)


def parts_table() -> list[str]:
    heads = ["gathered and gradients on their way, GB", "activations, GB", "traffic, GB", "LoRA, GB"]
    many = DEVICES[-1]
    rows = []
    for model in MODELS:
        cells = (passing(model, False), activations(model), received(model, many, False), received(model, many, True))
        rows.append([model.name, f"{model.parameters:,}", *(f"{cell / GB:.0f}" for cell in cells)])
    return _table(["model", "parameters", *heads], rows)


def operations_table() -> list[str]:
    rows = []
    for kind in KINDS:
        found = flops(kind[0], Step(), kind[1])
        whole = sum(found.values())
        rows.append([_name(kind), f"{whole / 1e15:.0f}", *(f"{100 * found[part] / whole:.1f} %" for part in PARTS)])
    return _table(["model", "PFLOP of a step", *PARTS], rows)


def time_table() -> list[str]:
    """Each model that is trained as a whole or by adapters, shared over all GPUs or over those of a machine."""
    columns = [(kind, machine) for kind in KINDS for machine in (False, True)]
    columns = [(kind, machine) for kind, machine in columns if not machine or _fits(*kind, MACHINE)]
    heads = [f"{_name(kind)}, {'node' if machine else 'all'}" for kind, machine in columns]
    rows = [[str(devices), *(_seconds(*kind, devices, machine) for kind, machine in columns)] for devices in DEVICES]
    return _table(["GPUs", *heads], rows)


def _seconds(model: Llama, lora: bool, devices: int, machine: bool) -> str:
    """Both bounds; a dash where a group of GPUs has no room for the model."""
    copies = devices // MACHINE if machine else 1
    if not _fits(model, lora, devices // copies):
        return "–"
    low, high = bounds(model, devices, lora, copies=copies, step=Step(), device=Device(), network=Network())
    return f"{_short(low)}–{_short(high)}"


def _fits(model: Llama, lora: bool, devices: int) -> bool:
    return total(model, devices, lora) <= Device().room


def _short(seconds: float) -> str:
    return f"{seconds:.0f}" if seconds >= 10 else f"{seconds:.1f}" if seconds >= 1 else f"{seconds:.2f}"


def _name(kind: tuple[Llama, bool]) -> str:
    return f"{kind[0].name}, {'LoRA' if kind[1] else 'all weights'}"


def _table(heads: Sequence[str], rows: Iterable[Sequence[str]]) -> list[str]:
    first = "---:" if heads[0] == "GPUs" else "---"
    rule = f"|{first}|{'---:|' * (len(heads) - 1)}"
    return [f"| {' | '.join(heads)} |", rule, *(f"| {' | '.join(row)} |" for row in rows)]


if __name__ == "__main__":
    main()
