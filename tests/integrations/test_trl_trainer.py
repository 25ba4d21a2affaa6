"""TRL's trainer with weights: TRL's own losses where all weights are 1, ours where they are not."""

from __future__ import annotations

import copy
import functools
import json
import os
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

pytest.importorskip("trl")
pytest.importorskip("datasets")

import datasets
import trl
import trl_on_two_ranks
from forked import HANG
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM
from trl.trainer.dpo_trainer import DataCollatorForPreference

from iwpo_fast.config import ObjectiveConfig, TinyConfig
from iwpo_fast.integrations.trl import WeightedDPOTrainer, WeightedPreferenceCollator, fused_head
from iwpo_fast.integrations.trl.columns import checked_columns
from iwpo_fast.models.tiny import tiny_model, train_tokenizer

WORDS = ["red", "green", "blue", "warm", "cold and dark"]
LOSSES = [
    *("sigmoid", "hinge", "ipo", "exo_pair", "nca_pair", "robust", "bco_pair", "sppo_hard", "aot", "aot_unpaired"),
    *("apo_zero", "apo_down", "discopop", "sft", "sigmoid_norm"),
]
ROWS = [
    {"prompt": f"say {chosen}: ", "chosen": chosen, "rejected": rejected}
    for chosen, rejected in zip(WORDS, [*WORDS[1:], "red red"], strict=True)
][:4]
WEIGHTED = [row | {"weight": 2.0} for row in ROWS]


class Unweighted(DataCollatorForPreference):
    """A collator of somebody else's, which leaves weights out."""


@pytest.fixture(scope="module")
def tokenizer() -> Any:
    return train_tokenizer([" ".join(row.values()) for row in ROWS] * 3, 300)


@pytest.fixture(scope="module")
def models(tokenizer) -> tuple[Any, Any]:
    """A policy and a reference, which differ."""
    shape = TinyConfig(vocab_size=len(tokenizer), hidden_size=32, layers=1, heads=2)
    return tiny_model(shape, tokenizer, 0), tiny_model(shape, tokenizer, 1)


def trainer_of(
    kind: type,
    models: tuple[Any, Any],
    tokenizer: Any,
    folder: Path,
    rows: Any = ROWS,
    **settings: Any,
) -> Any:
    passed = ("objective", "weight_column", "peft_config", "data_collator", "eval_dataset")
    own = {name: settings.pop(name) for name in passed if name in settings}
    policy, reference = (copy.deepcopy(model) for model in models)
    given: dict[str, Any] = {
        "per_device_train_batch_size": 4,
        "max_steps": 2,
        "learning_rate": 0.1,
        "logging_steps": 1,
        "gradient_checkpointing": False,
        "bf16": False,
        "save_strategy": "no",
    }
    config = trl.DPOConfig(output_dir=str(folder), use_cpu=True, report_to=[], **(given | settings))
    if "peft_config" not in own:
        own["ref_model"] = reference
    data = datasets.Dataset.from_list(rows) if isinstance(rows, list) else rows
    return kind(policy, args=config, train_dataset=data, processing_class=tokenizer, **own)


def loss_and_gradients(trainer: Any, denominator: Any = None) -> tuple[float, list[torch.Tensor]]:
    (batch,) = trainer.get_train_dataloader()
    trainer.model.zero_grad()
    trainer.model.train()
    trainer.current_gradient_accumulation_steps = 1
    loss = trainer.compute_loss(trainer.model, batch, num_items_in_batch=denominator)
    loss.backward()
    return loss.item(), [p.grad for p in trainer.model.parameters() if p.grad is not None]


@pytest.mark.slow
@pytest.mark.parametrize("name", LOSSES)
def test_with_weights_of_1_losses_and_gradients_are_trls(name, models, tokenizer, tmp_path) -> None:
    smoothing = {"label_smoothing": 0.1} if name in ("robust", "exo_pair") else {}
    settings = {"loss_type": [name], "beta": 0.3, "discopop_tau": 0.2} | smoothing
    theirs = loss_and_gradients(trainer_of(trl.DPOTrainer, models, tokenizer, tmp_path, **settings))
    weighted = [row | {"weight": 1.0} for row in ROWS]
    for rows in (ROWS, weighted):
        ours = loss_and_gradients(trainer_of(WeightedDPOTrainer, models, tokenizer, tmp_path, rows, **settings))
        assert ours[0] == pytest.approx(theirs[0], rel=1e-6, abs=1e-7)
        assert len(ours[1]) == len(theirs[1])
        for mine, other in zip(ours[1], theirs[1], strict=True):
            torch.testing.assert_close(mine, other, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("divergence", ["forward_kl", "js_divergence", "alpha_divergence"])
def test_and_so_are_mixtures_under_other_divergences(divergence, models, tokenizer, tmp_path) -> None:
    settings = {"loss_type": ["sigmoid", "hinge"], "loss_weights": [0.5, 2.0], "f_divergence_type": divergence}
    theirs, _ = loss_and_gradients(trainer_of(trl.DPOTrainer, models, tokenizer, tmp_path, **settings))
    ours, _ = loss_and_gradients(trainer_of(WeightedDPOTrainer, models, tokenizer, tmp_path, **settings))
    assert ours == pytest.approx(theirs, rel=1e-6)


def test_a_loss_that_weighs_0_is_left_out_as_in_trl(models, tokenizer, tmp_path) -> None:
    settings = {"loss_type": ["sigmoid", "hinge"], "loss_weights": [0.0, 2.0]}
    theirs, _ = loss_and_gradients(trainer_of(trl.DPOTrainer, models, tokenizer, tmp_path, **settings))
    trainer = trainer_of(WeightedDPOTrainer, models, tokenizer, tmp_path, **settings)
    assert loss_and_gradients(trainer)[0] == pytest.approx(theirs, rel=1e-6)
    assert trainer.objective.name == {"hinge": 2.0}


def test_a_weight_of_0_takes_a_pair_out_and_one_of_2_counts_twice(models, tokenizer, tmp_path) -> None:
    weights = [0.0, 2.0, 1.0, 1.0]
    rows = [row | {"importance": weight} for row, weight in zip(ROWS, weights, strict=True)]
    trainer = trainer_of(WeightedDPOTrainer, models, tokenizer, tmp_path, rows, weight_column="importance")
    twice = [ROWS[1], ROWS[1], ROWS[2], ROWS[3]]
    plain = trainer_of(trl.DPOTrainer, models, tokenizer, tmp_path, twice)
    ours, theirs = loss_and_gradients(trainer), loss_and_gradients(plain)
    assert ours[0] == pytest.approx(theirs[0], rel=1e-6)
    for mine, other in zip(ours[1], theirs[1], strict=True):
        torch.testing.assert_close(mine, other, rtol=1e-4, atol=1e-6)
    assert trainer._metrics["train"]["weights/mean"] == [1.0]
    assert trainer._metrics["train"]["weights/effective"] == [pytest.approx(16 / (4 * 6))]


def test_a_smoothed_label_mixes_both_sides(models, tokenizer, tmp_path) -> None:
    flipped = [row | {"chosen": row["rejected"], "rejected": row["chosen"]} for row in ROWS]
    straight, swapped = (
        loss_and_gradients(trainer_of(trl.DPOTrainer, models, tokenizer, tmp_path, rows))[0] for rows in (ROWS, flipped)
    )
    smoothed = [row | {"label_smoothing": 0.2} for row in ROWS]
    ours, _ = loss_and_gradients(trainer_of(WeightedDPOTrainer, models, tokenizer, tmp_path, smoothed))
    assert ours == pytest.approx(0.8 * straight + 0.2 * swapped, rel=1e-6)


@pytest.mark.slow
@pytest.mark.parametrize("normalize", ["count", "weights"])
def test_training_does_not_depend_on_how_a_step_is_split(normalize, models, tokenizer, tmp_path) -> None:
    rows = [row | {"weight": weight} for row, weight in zip(ROWS, (0.5, 3.0, 1.0, 0.25), strict=True)]
    finals = []
    for size in (4, 2, 1):
        trainer = trainer_of(
            WeightedDPOTrainer,
            models,
            tokenizer,
            tmp_path,
            rows,
            objective=ObjectiveConfig(normalize=normalize),
            per_device_train_batch_size=size,
            gradient_accumulation_steps=4 // size,
            max_grad_norm=0.0,
            optim="sgd",
        )
        trainer.train()
        finals.append([parameter.detach().clone() for parameter in trainer.model.parameters()])
        losses = [entry["loss"] for entry in trainer.state.log_history if "loss" in entry]
        if size == 4:
            expected = losses
        assert losses == pytest.approx(expected, rel=1e-3)
    for other in finals[1:]:
        for one, two in zip(finals[0], other, strict=True):
            torch.testing.assert_close(one, two, rtol=1e-4, atol=1e-6)


@pytest.mark.slow
@pytest.mark.parametrize("adapter", [False, True])
def test_a_training_that_goes_on_from_a_checkpoint_has_the_losses_and_weights_of_one(
    adapter, models, tokenizer, tmp_path
) -> None:
    peft = pytest.importorskip("peft")
    rows = [row | {"weight": 0.5 + i} for i, row in enumerate(ROWS)]
    settings: dict[str, Any] = {"per_device_train_batch_size": 1, "gradient_accumulation_steps": 2, "max_steps": 5}
    settings |= {"learning_rate": 1e-2, "disable_dropout": False, "save_strategy": "steps", "save_steps": 2}
    if adapter:
        settings |= {"peft_config": peft.LoraConfig(r=2, lora_dropout=0.2, target_modules="all-linear")}
    whole = trainer_of(WeightedDPOTrainer, models, tokenizer, tmp_path, rows, **settings)
    whole.train()
    resumed = trainer_of(WeightedDPOTrainer, models, tokenizer, tmp_path, rows, **settings)
    resumed.train(resume_from_checkpoint=str(tmp_path / "checkpoint-2"))
    losses = [
        [(entry["loss"], entry["grad_norm"]) for entry in trainer.state.log_history if "loss" in entry]
        for trainer in (whole, resumed)
    ]
    assert losses[1] == losses[0] and len(set(losses[0])) == 5
    for one, two in zip(whole.model.parameters(), resumed.model.parameters(), strict=True):
        assert torch.equal(one, two)


@pytest.mark.slow
def test_objectives_that_trl_lacks_train_by_name(models, tokenizer, tmp_path) -> None:
    rows = [row | {"score_chosen": 1.0, "score_rejected": 0.0} for row in ROWS]
    for objective in (ObjectiveConfig(name="d_dpo"), ObjectiveConfig(name="simpo", beta=2.0)):
        trainer = trainer_of(
            WeightedDPOTrainer, models, tokenizer, tmp_path, rows, objective=objective, learning_rate=1e-3
        )
        first = loss_and_gradients(trainer)[0]
        trainer.train()
        assert loss_and_gradients(trainer)[0] < first


@pytest.mark.slow
def test_adapters_and_cached_log_probs_of_the_reference_work(models, tokenizer, tmp_path) -> None:
    peft = pytest.importorskip("peft")
    adapter = peft.LoraConfig(r=2, target_modules="all-linear", task_type="CAUSAL_LM")
    rows = [row | {"weight": 2.0} for row in ROWS]
    trainer = trainer_of(WeightedDPOTrainer, models, tokenizer, tmp_path, rows, peft_config=adapter)
    assert loss_and_gradients(trainer)[0] == pytest.approx(2 * 0.693147, rel=1e-4)
    cached = trainer_of(WeightedDPOTrainer, models, tokenizer, tmp_path, rows, precompute_ref_log_probs=True)
    fresh = trainer_of(WeightedDPOTrainer, models, tokenizer, tmp_path, rows)
    assert loss_and_gradients(cached)[0] == pytest.approx(loss_and_gradients(fresh)[0], rel=1e-6)
    assert cached.evaluate(datasets.Dataset.from_list(rows))["eval_loss"] == pytest.approx(
        loss_and_gradients(fresh)[0], rel=1e-5
    )


@pytest.mark.parametrize(
    ("settings", "rows", "sentence"),
    [
        ({"ld_alpha": 0.5}, ROWS, "ld_alpha of the DPOConfig is not read"),
        ({"use_weighting": True}, ROWS, "use_weighting of the DPOConfig is not read"),
        ({"label_smoothing": 0.1}, ROWS, "label_smoothing is 0.1, which TRL's sigmoid does not read"),
        ({"weight_column": "importance"}, ROWS, "weight_column is 'importance', which train_dataset does not have"),
        ({"objective": ObjectiveConfig(name="wpo")}, ROWS, "wpo reads more of each token"),
        ({"objective": ObjectiveConfig(name="drdo")}, ROWS, "drdo trains a reward head, which TRL's model has not"),
        (
            {"objective": ObjectiveConfig(name="spo_best")},
            ROWS,
            "spo_best compares all candidates of a row, and TRL has",
        ),
        ({"objective": ObjectiveConfig(name="dpoo")}, ROWS, "dpoo"),
        ({"objective": ObjectiveConfig(name="beta_dpo")}, ROWS, "beta_dpo compares the pairs of a step with those of"),
        ({"objective": ObjectiveConfig(name="d_dpo")}, ROWS, "d_dpo needs the columns score_chosen and score_rejected"),
        (
            {"objective": ObjectiveConfig(name="d_dpo")},
            [row | {"score_chosen": 1.0} for row in ROWS],
            "d_dpo needs the columns score_chosen and score_rejected",
        ),
        (
            {"objective": ObjectiveConfig(name="aot")},
            [row | {"label_smoothing": 0.1} for row in ROWS],
            "aot cannot smooth labels",
        ),
        ({"data_collator": Unweighted(0)}, WEIGHTED, "data_collator is a Unweighted, whose batches may lack weight"),
        (
            {"data_collator": WeightedPreferenceCollator(0, columns={"weight": "importance"})},
            WEIGHTED,
            "data_collator reads the columns importance, and the trainer weight",
        ),
    ],
)
def test_settings_that_would_be_ignored_are_refused(settings, rows, sentence, models, tokenizer, tmp_path) -> None:
    with pytest.raises(ValueError, match=sentence):
        trainer_of(WeightedDPOTrainer, models, tokenizer, tmp_path, rows, **settings)


@pytest.mark.parametrize(
    ("theirs", "ours", "sentence"),
    [
        ({"beta": 1.5}, {"beta": 1.5}, "beta of the DPOConfig is 1.5, which would not be read"),
        ({"loss_type": ["ipo"]}, {"name": "ipo"}, r"loss_type of the DPOConfig is \['ipo'\], which would not be read"),
    ],
)
def test_a_loss_in_two_places_is_refused_unless_they_say_the_same(
    theirs, ours, sentence, models, tokenizer, tmp_path
) -> None:
    def trainer(**objective: Any) -> WeightedDPOTrainer:
        given = theirs | {"objective": ObjectiveConfig(normalize="weights", **objective)}
        return trainer_of(WeightedDPOTrainer, models, tokenizer, tmp_path, **given)

    with pytest.raises(ValueError, match=sentence):
        trainer()
    assert trainer(**ours).mixture.beta == ours.get("beta", 0.1)


def test_a_column_that_was_meant_is_asked_after(models, tokenizer, tmp_path, caplog) -> None:
    rows = [row | {"weights": 2.0} for row in ROWS]
    trainer_of(WeightedDPOTrainer, models, tokenizer, tmp_path, rows)
    (said,) = [record.getMessage() for record in caplog.records if "is not read" in record.getMessage()]
    assert said == "train_dataset: weights is not read, did you mean weight? (weight_column='weights')"
    caplog.clear()
    trainer_of(WeightedDPOTrainer, models, tokenizer, tmp_path, rows, weight_column="weights")
    assert "is not read" not in caplog.text


@pytest.mark.parametrize(
    ("weights", "sentence"),
    [
        ([1.0, -1.0, 1.0, 1.0], "has the negative weight -1.0"),
        ([1.0, None, 1.0, 1.0], "has no weight although others have one"),
        ([1.0, float("inf"), 1.0, 1.0], "has the weight inf"),
    ],
)
def test_weights_that_are_none_are_refused(weights, sentence, models, tokenizer, tmp_path) -> None:
    rows = [row | {"weight": weight} for row, weight in zip(ROWS, weights, strict=True)]
    with pytest.raises(ValueError, match=rf"train_dataset\[1\] {sentence}"):
        trainer_of(WeightedDPOTrainer, models, tokenizer, tmp_path, rows)
    stream = datasets.IterableDataset.from_generator(lambda: iter(rows))
    trainer = trainer_of(WeightedDPOTrainer, models, tokenizer, tmp_path, stream)
    with pytest.raises(ValueError, match=f"A pair {sentence}"):
        next(iter(trainer.get_train_dataloader()))


@pytest.mark.parametrize(
    "change",
    [
        lambda data: data,
        lambda data: data.shuffle(seed=1),
        lambda data: datasets.concatenate_datasets([data, data]),
        lambda data: data.with_format("torch"),
        lambda data: data.with_transform(lambda rows: rows),
        lambda data: data.cast_column("weight", datasets.Value("float32")),
        lambda data: data.cast_column("score_chosen", datasets.LargeList(datasets.Value("float64"))),
    ],
)
def test_columns_are_read_as_their_rows_are(change) -> None:
    rows = [{"weight": 0.5 * i, "label_smoothing": i / 10, "score_chosen": [i, -i]} for i in range(5)]
    data = change(datasets.Dataset.from_list(rows))
    names = {name: name for name in rows[0]}
    found = checked_columns(data, names, "data")
    for name in names:
        expected = torch.tensor(data.with_format(None)[name][:], dtype=torch.float32)
        torch.testing.assert_close(torch.from_numpy(found[name]), expected, rtol=0, atol=0)


@pytest.mark.parametrize(
    ("name", "values", "wrong", "sentence"),
    [
        ("weight", [1, 2, -1], 2, "data[2] has the negative weight -1: make it 0 or more"),
        ("weight", [1.0, 1e300, 1.0], 1, "data[1] has the weight 1e+300: make it a finite number of float32"),
        ("label_smoothing", [0.0, 0.5, 1.0], 2, "data[2] has the label_smoothing 1.0: make it 0 or more and less"),
        ("label_smoothing", [0.0, float("nan"), 0.5], 1, "data[1] has no label_smoothing although others have one"),
        ("score_chosen", [[1.0], [1.0, 2.0], [1.0]], 1, "Pairs have score_chosen of different lengths"),
        ("score_chosen", [[1.0], None, [1.0]], 1, "data[1] has no score_chosen although others have one"),
        ("score_chosen", [[None], [1.0], [1.0]], 0, "data[0] has the score_chosen None: make it a number"),
    ],
)
def test_a_number_that_is_wrong_is_said_unless_its_row_is_left_out(name, values, wrong, sentence) -> None:
    data = datasets.Dataset.from_dict({name: values})
    with pytest.raises(ValueError, match=re.escape(sentence)):
        checked_columns(data, {name: name}, "data")
    rest = [row for row in (2, 1, 0) if row != wrong]
    found = checked_columns(data.select(rest), {name: name}, "data")[name]
    assert found.tolist() == [values[row] for row in rest]


@pytest.mark.parametrize("values", [["1", "2"], [True, False]])
def test_a_column_of_what_is_no_number_is_refused(values) -> None:
    with pytest.raises(ValueError, match=re.escape(f"data[0] has the weight {values[0]!r}: make it a number")):
        checked_columns(datasets.Dataset.from_dict({"weight": values}), {"weight": "weight"}, "data")


@pytest.mark.parametrize("several", [False, True])
def test_a_held_out_set_without_the_named_column_is_refused_at_once(several, models, tokenizer, tmp_path) -> None:
    rows = [row | {"importance": 2.0} for row in ROWS]
    held_out = datasets.Dataset.from_list(WEIGHTED)
    called = r"eval_dataset\['new'\]" if several else "eval_dataset"
    sentence = f"weight_column is 'importance', which {called} does not have: choose among prompt, chosen"
    given: Any = {"new": held_out} if several else held_out
    named = {"weight_column": "importance"}
    with pytest.raises(ValueError, match=sentence):
        trainer_of(WeightedDPOTrainer, models, tokenizer, tmp_path, rows, eval_dataset=given, **named)
    trainer = trainer_of(WeightedDPOTrainer, models, tokenizer, tmp_path, rows, **named)
    with pytest.raises(ValueError, match=sentence):
        trainer.evaluate(given)


def test_a_loss_that_is_named_twice_counts_with_both_weights(models, tokenizer, tmp_path) -> None:
    settings = {"loss_type": ["sigmoid", "sigmoid"], "loss_weights": [1.0, 2.0]}
    theirs, _ = loss_and_gradients(trainer_of(trl.DPOTrainer, models, tokenizer, tmp_path, **settings))
    ours, _ = loss_and_gradients(trainer_of(WeightedDPOTrainer, models, tokenizer, tmp_path, **settings))
    assert ours == pytest.approx(theirs, rel=1e-6)


def test_scores_that_the_objective_does_not_read_need_not_be_there(models, tokenizer, tmp_path) -> None:
    plain, _ = loss_and_gradients(trainer_of(WeightedDPOTrainer, models, tokenizer, tmp_path))
    for scores in ([1.0, None, 1.0, 1.0], ["high", "low", "low", "low"]):
        rows = [row | {"score_chosen": score} for row, score in zip(ROWS, scores, strict=True)]
        loss, _ = loss_and_gradients(trainer_of(WeightedDPOTrainer, models, tokenizer, tmp_path, rows))
        assert loss == plain


def test_pairs_that_weigh_nothing_have_a_loss_of_0(models, tokenizer, tmp_path) -> None:
    rows = [row | {"weight": 0.0} for row in ROWS]
    by_weights = ObjectiveConfig(normalize="weights")
    trainer = trainer_of(WeightedDPOTrainer, models, tokenizer, tmp_path, rows, objective=by_weights)
    (batch,) = trainer.get_train_dataloader()
    total = trainer._get_num_items_in_batch([batch], torch.device("cpu"))
    for denominator in (None, total):
        loss, gradients = loss_and_gradients(trainer, denominator)
        assert loss == 0 and all(gradient.count_nonzero() == 0 for gradient in gradients)


def test_the_operator_is_in_trls_place_inside_the_context_alone() -> None:
    import trl.trainer.utils as utils

    before = utils._ChunkedLogProbFunction
    with fused_head():
        assert utils._ChunkedLogProbFunction is not before
    assert utils._ChunkedLogProbFunction is before


@pytest.fixture(scope="module")
def trained(tmp_path_factory) -> Callable[[int, str, str], Path]:
    """A folder with the losses and the model that so many processes found; each kind trains once."""

    @functools.cache
    def train(ranks: int, strategy: str, kind: str) -> Path:
        folder = tmp_path_factory.mktemp(f"{ranks}-{strategy}-{kind}")
        launch = ["torch.distributed.run", "--standalone", "--nproc-per-node", "2"] if ranks == 2 else []
        pairs, micro_batches = {1: ("4", "1"), 2: ("1", "2")}[ranks]
        program = [trl_on_two_ranks.__file__, str(folder), pairs, micro_batches, strategy, kind]
        command = [sys.executable, *(["-m", *launch] if launch else []), *program]
        environment = os.environ | {"DS_ACCELERATOR": "cpu"}
        job = subprocess.run(command, capture_output=True, text=True, timeout=HANG, env=environment)
        assert job.returncode == 0, job.stderr
        return folder

    return train


@pytest.mark.slow
@pytest.mark.parametrize(
    ("strategy", "kind"),
    [("ddp", "tied"), ("fsdp2", "tied"), ("fsdp2", "untied"), ("fsdp2", "adapter"), ("zero2", "tied")],
)
def test_two_processes_train_and_save_what_one_does(strategy, kind, trained) -> None:
    if strategy == "zero2":
        pytest.importorskip("deepspeed")
    one, two = trained(1, "ddp", kind), trained(2, strategy, kind)
    losses = [json.loads((folder / "losses.json").read_text()) for folder in (one, two)]
    (first, last), others = losses
    assert last < first and others == pytest.approx([first, last], rel=1e-5)
    expected, found = (weights_of(folder / "model", kind) for folder in (one, two))
    assert found.keys() == expected.keys()
    for name, weight in expected.items():
        torch.testing.assert_close(found[name], weight, rtol=1e-4, atol=1e-6, msg=lambda m, n=name: f"{n}: {m}")


def weights_of(folder: Path, kind: str) -> dict[str, torch.Tensor]:
    """What plain transformers reads in the folder of a model; of an adapter, what is in its file."""
    if kind == "adapter":
        return load_file(folder / "adapter_model.safetensors")
    model = AutoModelForCausalLM.from_pretrained(folder)
    assert (model.lm_head.weight is model.model.embed_tokens.weight) == (kind == "tied")
    return dict(model.named_parameters())
