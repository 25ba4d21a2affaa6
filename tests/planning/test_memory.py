"""Memory of a model of which only shapes are made, against arithmetic by hand."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from iwpo_fast.config import DataConfig, LoraConfig, ModelConfig, OptimConfig, PlanConfig, TrainConfig
from iwpo_fast.models.policy import Policy
from iwpo_fast.planning.memory import WORKSPACE, cache_bytes, expected_memory, fits, pass_memory, training_memory
from iwpo_fast.planning.shape import shape_of

SHAPE = {
    "model_type": "mistral",
    "hidden_size": 256,
    "intermediate_size": 512,
    "num_hidden_layers": 4,
    "num_attention_heads": 8,
    "num_key_value_heads": 2,
    "vocab_size": 1000,
}
LAYER = 2 * 256 * 256 + 2 * 256 * 64 + 3 * 256 * 512
HEAD = 256 * 1000
ENTRIES = 4 * (LAYER + 2 * 256) + 2 * HEAD + 256
MATRICES = 4 * LAYER + 2 * HEAD
ADAPTERS = 4 * 2 * (2 * (256 + 256) + 2 * (256 + 64) + 3 * (256 + 512))
LORA = LoraConfig(rank=2)


def config(**model: object) -> TrainConfig:
    settings = ModelConfig(path="not here", **model)  # type: ignore[arg-type]
    return TrainConfig(DataConfig("pairs.jsonl"), settings, plan=PlanConfig(model=SHAPE))


def policy_of(settings: TrainConfig) -> Policy:
    return shape_of(settings, None, settings.model.lora).policy


def memory(settings: TrainConfig, *, shards: int = 1, room: float = 80e9) -> dict[str, int]:
    return training_memory(settings, policy_of(settings), 100, 60, room=room, shards=shards)


def test_all_weights_take_sixteen_bytes_each_and_their_copies_two() -> None:
    found = memory(config())
    assert (found["weights"], found["gradients"], found["optimiser"]) == (4 * ENTRIES, 4 * ENTRIES, 8 * ENTRIES)
    assert found["weights cast"] == 2 * MATRICES
    assert found["activations"] == 100 * 4 * (7 * 256 + 3 * 512) * 2


def test_float32_keeps_what_norms_and_the_activation_function_read_and_write() -> None:
    kept = 7 * 256 + 4 * 512 + 2 * 64
    assert memory(config(precision="fp32"))["activations"] == 100 * 4 * (kept + 2 * 256) * 4
    assert memory(config(precision="fp32", lora=LORA))["activations"] == 100 * 4 * kept * 4


def test_autocast_keeps_its_copies_through_the_forward_pass_even_where_layers_are_recomputed() -> None:
    found = memory(config(gradient_checkpointing="full"))
    assert found["weights cast"] == 2 * MATRICES
    assert found["activations"] == 100 * (4 * 256 * 4 + (7 * 256 + 3 * 512) * 2)


@pytest.mark.parametrize("recomputed", [False, True])
def test_pytorch_holds_those_copies_until_the_decoder_has_run(recomputed: bool) -> None:
    from torch.utils._python_dispatch import TorchDispatchMode
    from torch.utils.weak import WeakTensorKeyDictionary
    from transformers import AutoConfig, AutoModelForCausalLM

    from iwpo_fast.models.layers import checkpoint_layer, decoder_layers

    shape = {name: value for name, value in SHAPE.items() if name != "model_type"} | {"vocab_size": 10}
    model = AutoModelForCausalLM.from_config(AutoConfig.for_model("mistral", **shape))
    layers = decoder_layers(model.model)
    shapes = {p.shape for p in layers[0].parameters() if p.ndim == 2}

    class Copies(TorchDispatchMode):
        alive = WeakTensorKeyDictionary()
        seen: list[int] = []  # noqa: RUF012

        def __torch_dispatch__(self, operator, types, inputs=(), others=None):  # type: ignore[no-untyped-def] # noqa: ANN204
            out = operator(*inputs, **(others or {}))
            if "_to_copy" in str(operator) and out.dtype == torch.bfloat16 and out.shape in shapes:
                self.alive[out] = out.numel()
            return out

    for layer in layers if recomputed else ():
        checkpoint_layer(layer, "full")
    layers[-1].register_forward_hook(lambda *_: Copies.seen.append(sum(Copies.alive.values())))
    with Copies(), torch.autocast("cpu", torch.bfloat16):
        model.model(torch.zeros(1, 3, dtype=torch.int64))
    assert Copies.seen == [4 * LAYER]


def test_a_lora_base_is_in_half_precision_and_its_adapters_take_sixteen_bytes() -> None:
    found = memory(config(lora=LORA))
    assert found["weights"] == 2 * ENTRIES + 4 * ADAPTERS
    assert (found["gradients"], found["optimiser"]) == (4 * ADAPTERS, 8 * ADAPTERS)
    assert found["weights cast"] == 2 * ADAPTERS


def test_four_bits_are_counted_with_their_scales_for_linear_layers_alone() -> None:
    plain, small = memory(config(lora=LORA)), memory(config(lora=LORA, quantize="nf4"))
    saved = (plain["weights"] - small["weights"]) / (4 * LAYER)
    assert saved == pytest.approx(2 - (0.5 + 1 / 64 + 4 / (64 * 256)), rel=1e-4)


def test_the_head_keeps_no_logits_but_exponentials_that_fit_into_a_sixteenth_of_the_gpu() -> None:
    jacobian, exponentials = 4 * 60 * 256, 2 * 60 * 1000
    assert memory(config())["LM head"] == WORKSPACE + jacobian + exponentials + 4 * HEAD
    assert memory(config(), room=16 * exponentials - 1)["LM head"] == WORKSPACE + jacobian + 4 * HEAD
    assert memory(config(lora=LORA))["LM head"] == WORKSPACE + jacobian


def test_gpus_share_what_is_kept_and_each_gathers_what_runs() -> None:
    whole, part = memory(config()), memory(config(), shards=4)
    for name in ("weights", "gradients", "optimiser"):
        assert part[name] == whole[name] // 4
    assert part["activations"] == whole["activations"]
    assert part["gathered weights"] == 2 * (2 * HEAD + 256 + 2 * (LAYER + 2 * 256))
    assert part["gathered gradients"] == (2 + 4) * 2 * HEAD
    assert "weights cast" not in part


def test_eight_bit_moments_take_two_bytes_of_a_weight() -> None:
    settings = replace(config(), optim=OptimConfig(name="adamw_8bit"))
    assert 2 * MATRICES < expected_memory(settings, policy_of(settings), 1)["optimiser"] < 2.1 * MATRICES


def test_shards_keep_eight_bits_where_rows_are_whole_blocks() -> None:
    settings = replace(config(), optim=OptimConfig(name="adamw_8bit"))
    found = training_memory(settings, policy_of(settings), 100, 60, room=1e12, shards=4)["optimiser"]
    of_matrices, of_vectors = 2 * (1 + 4 / 256) * MATRICES, 8 * (ENTRIES - MATRICES)
    assert found == (of_matrices + of_vectors) / 4


def test_shards_divide_codes_of_four_bits_and_each_gpu_has_all_scales() -> None:
    settings = config(lora=LORA, quantize="nf4")
    whole, part = memory(settings), memory(settings, shards=4)
    scales = 4 * LAYER * (1 / 64 + 4 / (64 * 256))
    assert part["weights"] == pytest.approx((whole["weights"] - scales) / 4 + scales, abs=4)
    plain = memory(config(lora=LORA), shards=4)
    assert plain["gathered weights"] - part["gathered weights"] == 2 * LAYER * 1.5


def test_a_pass_without_gradients_keeps_one_layer_at_a_time() -> None:
    settings = config()
    found = pass_memory(settings, policy_of(settings), 100, shards=1)
    assert found == {
        "weights": 4 * ENTRIES,
        "activations": 100 * (4 * 256 + (7 * 256 + 3 * 512) * 2),
        "LM head": WORKSPACE,
        "weights cast": 2 * MATRICES,
    }


def test_keys_and_values_are_those_of_the_heads_that_share_them() -> None:
    assert cache_bytes(policy_of(config())) == 2 * 4 * 2 * 32 * 2


def test_a_fifth_of_a_gpu_is_left_free() -> None:
    assert fits({"weights": 79, "gradients": 1}, 100.0)
    assert not fits({"weights": 80, "gradients": 1}, 100.0)
