"""The tables on paper are those of the documentation, for models of the known sizes, and agree with other counts."""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from benchmarks.at_scale.__main__ import DEVICES, main
from benchmarks.at_scale.llama import MODELS, Llama
from benchmarks.at_scale.memory import state, total
from benchmarks.at_scale.step_time import Device, Step, bounds, flops
from benchmarks.at_scale.traffic import MACHINE, Network, received
from benchmarks.training.case import Case
from benchmarks.training.flops import step_flops
from benchmarks.training.shapes import LLAMA_EIGHT
from iwpo_fast.data.pairs import Pairs
from iwpo_fast.data.ragged import Ragged

DOCS = Path(__file__).parents[2] / "docs" / "distributed.md"
EIGHT, SEVENTY = MODELS


def seconds(model: Llama, devices: int, lora: bool = False, **others: object) -> tuple[float, float]:
    arguments = {"copies": 1, "step": Step(), "device": Device(), "network": Network()} | others
    return bounds(model, devices, lora, **arguments)  # type: ignore[arg-type]


def test_the_documentation_has_the_tables_that_are_printed(capsys):
    main()
    printed = [line for line in capsys.readouterr().out.splitlines() if line]
    assert len(printed) == 9 + 4 + 6 + 9
    documented = [line.strip() for line in DOCS.read_text(encoding="utf-8").splitlines()]
    assert [line for line in printed if line not in documented] == []


def test_the_models_have_the_parameters_of_llama_3_1():
    assert [model.parameters for model in MODELS] == [8_030_261_248, 70_553_706_496]


def test_state_is_split_and_what_passes_is_not():
    for model in MODELS:
        for lora in (False, True):
            assert state(model, 8, lora) == 8 * state(model, 64, lora)
            assert total(model, 8, lora) - total(model, 64, lora) == state(model, 8, lora) - state(model, 64, lora)


@pytest.mark.parametrize("lora", [False, True])
def test_operations_are_those_of_the_training_benchmark_and_the_layers_once_more(lora):
    step = Step(pairs=3, prompt=20, completion=30)

    def tokens(length: int) -> Ragged:
        return Ragged.from_rows([np.ones(length, dtype=np.int64)] * step.pairs)

    pairs = Pairs(tokens(step.prompt), tokens(step.completion), tokens(step.completion), weight=np.ones(step.pairs))
    case = Case("", LLAMA_EIGHT, "", step.pairs, (1,), lora=lora, device="meta", threads=1)
    found = flops(EIGHT, step, lora)
    again = found["layers"] / (3 if lora else 4) + found["attention"] / 4
    assert sum(found.values()) - again == pytest.approx(step_flops(case, pairs), rel=1e-12)


def test_a_step_without_traffic_takes_the_time_of_its_products_and_the_same_however_it_is_shared():
    free, device = Network(nvlink=np.inf, card=np.inf, hop=0.0), Device(memory=np.inf)
    for devices in DEVICES:
        expected = sum(flops(EIGHT, Step(), False).values()) / (devices * 0.4 * 790e12)
        for copies in (1, devices // MACHINE):
            found = seconds(EIGHT, devices, copies=copies, device=device, network=free)
            assert found == pytest.approx((expected, expected))


def test_nothing_hides_in_the_second_bound_and_all_of_the_lesser_part_in_the_first():
    network, device = Network(card=np.inf, hop=0.0), Device(memory=np.inf)
    low, high = seconds(SEVENTY, 8, network=network, device=device)
    micro_batches = -(-Step().tokens // (8 * SEVENTY.tokens))
    assert high - low == pytest.approx(micro_batches * received(SEVENTY, 8, False) / network.nvlink)
    slow = replace(network, nvlink=network.nvlink / 1000)
    low, high = seconds(SEVENTY, 8, network=slow, device=device)
    assert high - low == pytest.approx(seconds(SEVENTY, 8, network=replace(network, nvlink=np.inf), device=device)[0])


def test_between_machines_a_machine_receives_once_what_it_has_not_got_over_the_cards_of_its_gpus():
    network, device = Network(nvlink=np.inf, hop=0.0), Device(memory=np.inf)
    low, high = seconds(EIGHT, 16, network=network, device=device)
    weights_and_gradients = received(EIGHT, 16, False) * 16 / 15
    micro_batches = -(-Step().tokens // (16 * EIGHT.tokens))
    assert high - low == pytest.approx(micro_batches * weights_and_gradients / 2 / (8 * network.card))
    low, high = seconds(EIGHT, 16, copies=2, network=network, device=device)
    assert high - low == pytest.approx(2 * 4 * EIGHT.parameters / 8 / 2 / network.card)
