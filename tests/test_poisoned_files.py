"""Nothing that is read can run code: every reader is given a pickle in the place of what it expects."""

from __future__ import annotations

import ast
import contextlib
import io
import json
import os
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from safetensors import SafetensorError
from safetensors.torch import save_file
from trained_models import save_adapter, save_base
from transformers import AutoConfig, AutoModelForCausalLM, LlamaConfig, LlamaForSequenceClassification

import iwpo_fast
from iwpo_fast import threads
from iwpo_fast.annotators.mixture import Mixture
from iwpo_fast.annotators.start import given
from iwpo_fast.cli import main
from iwpo_fast.config import DataConfig, ModelConfig
from iwpo_fast.data import read_rows
from iwpo_fast.data.row_files import KNOWN
from iwpo_fast.data.token_cache import load_candidates, load_tokens
from iwpo_fast.demo import run as demo
from iwpo_fast.demo.generate import read_jsonl
from iwpo_fast.evaluation import reward_bench
from iwpo_fast.evaluation.answer_formats import read_instructions, read_questions
from iwpo_fast.files import load_record, load_tensors, save_record
from iwpo_fast.integrations.trl_recipe import translated_file
from iwpo_fast.models import load_policy, load_tokenizer
from iwpo_fast.models.pretrained import Source
from iwpo_fast.models.reward_head import RewardHead
from iwpo_fast.models.saved_files import check_saved
from iwpo_fast.models.tiny import train_tokenizer
from iwpo_fast.models.trained import base_of, was_in_four_bits
from iwpo_fast.pipeline.arms import model_of
from iwpo_fast.pipeline.folder import PipelineFolder
from iwpo_fast.pipeline.manifest import Manifest
from iwpo_fast.pipeline.origin import origin_of, read_written
from iwpo_fast.pipeline.rows_file import effects_in
from iwpo_fast.recipe import load_recipe
from iwpo_fast.report import RunFiles
from iwpo_fast.rewards import Clusters, reward_model_files, store, tuning
from iwpo_fast.rewards.classifier import classifier_scores
from iwpo_fast.sampling.store import load_part, load_records
from iwpo_fast.training.checkpoint import load_checkpoint, load_weights
from iwpo_fast.training.run_folder import RunFolder
from iwpo_fast.training.summary import TrainSummary
from iwpo_fast.training.trackers import JsonlTracker
from iwpo_fast.world import World

ALONE = World(0, 1, torch.device("cpu"))


class Evil:
    """Its pickle makes a folder when it is read."""

    def __init__(self, mark: Path) -> None:
        self._mark = str(mark)

    def __reduce__(self) -> tuple[Callable[..., Any], tuple[str]]:
        return os.mkdir, (self._mark,)


def as_numpy(evil: Evil) -> bytes:
    file = io.BytesIO()
    np.save(file, np.array([evil], dtype=object), allow_pickle=True)
    return file.getvalue()


def as_torch(evil: Evil) -> bytes:
    file = io.BytesIO()
    torch.save({"weight": evil}, file)
    return file.getvalue()


POISONS: dict[str, Callable[[Evil], bytes]] = {"pickle": pickle.dumps, "numpy": as_numpy, "torch": as_torch}


def parameters() -> dict[str, torch.nn.Parameter]:
    return {"a": torch.nn.Parameter(torch.zeros(2))}


def resume(folder: Path) -> None:
    weights = parameters()
    load_checkpoint(folder, weights, torch.optim.AdamW(weights.values()), ALONE)


def data(path: Path) -> DataConfig:
    return DataConfig(path=str(path), cache_dir=str(path.parent / "cache"))


def read_origin(path: Path) -> None:
    rows = path.with_suffix("").with_suffix(".jsonl")
    assert origin_of(rows) == path
    rows.write_text(json.dumps({"prompt": "a", "chosen": "b", "rejected": "c"}) + "\n")
    read_written(data(rows))


def of_folder(folder: Path) -> Source:
    return Source(str(folder), "model")


def run_with(path: Path) -> RunFiles:
    """The run that a file of one of its stages is in."""
    save_record(path.parents[1] / "manifest.json", {"stages": {}})
    return RunFiles(str(path.parents[1]))


BATCH = np.arange(3)

FILES: dict[str, tuple[str, Callable[[Path], Any]]] = {
    "tensors": ("values.safetensors", load_tensors),
    "record": ("record.json", load_record),
    "manifest": ("manifest.json", Manifest),
    "record of a run": ("run.json", lambda path: RunFolder(path.parent)._read_record()),
    "summary": ("summary.json", TrainSummary.load),
    "metrics": ("metrics.jsonl", lambda path: JsonlTracker(path, resumed_step=3).close()),
    "tokens": ("tokens.parquet", load_tokens),
    "tokens of candidates": ("tokens.parquet", load_candidates),
    "clusters": ("centroids.safetensors", Clusters.load),
    "tuned rewards": ("fold-0.safetensors", tuning._kept),
    "part of features": (
        store._part(Path(), BATCH).as_posix(),
        lambda path: store.names_in_part(path.parents[1], BATCH),
    ),
    "block of samples": ("0000001.json", load_part),
    "samples": ("candidates.jsonl", load_records),
    "origin of rows": ("train.rows.safetensors", read_origin),
    "weighted rows": ("train.jsonl", effects_in),
    "recipe": ("recipe.yaml", lambda path: load_recipe(path.read_text(encoding="latin-1"))),
    "demo": ("demo.json", lambda path: demo._open(path.parent, {})),
    "settings of an adapter": ("adapter_config.json", lambda path: base_of(of_folder(path.parent))),
    "run beside an adapter": ("run.json", lambda path: was_in_four_bits(of_folder(path.parent / "model"))),
    "table of arms": ("evaluation/arms.json", lambda path: model_of(PipelineFolder(path.parents[1]), "dpo")),
    "hashes of a model": ("checksums.json", lambda path: check_saved(path.parent, "model", weights=True)),
    "rows of the demo": ("eval.jsonl", read_jsonl),
    "recipe of trl": ("dpo.yaml", translated_file),
    "metrics of a run": ("train/metrics.jsonl", lambda path: run_with(path).metrics()),
    "arms of a run": ("evaluation/arms.json", lambda path: run_with(path).arms()),
    "margins of a run": (
        "evaluation/margins.safetensors",
        lambda path: run_with(path).margins(),
    ),
    "types of annotators": ("start.json", lambda path: given(str(path), ("ann",), 2)),
    "mixture": ("mixture.json", lambda path: Mixture.load(path.parent)),
    "weights of a run": ("weights/train.jsonl", lambda path: run_with(path).weighted),
    "width of a model": ("config.json", lambda path: threads.hidden_size(str(path.parent))),
    "width of a reward model": (
        "reward_model.json",
        lambda path: threads.hidden_size_of_reward_model(str(path.parent)),
    ),
}
FILES |= {f"data {kind}": (f"data{kind}", lambda path: read_rows(data(path))) for kind in (*KNOWN, ".pkl", ".pt")}
FILES |= {
    f"{name} {kind}": (f"data{kind}", lambda path, read=read: read(str(path)))
    for name, read in {
        "rewardbench": reward_bench.read,
        "alpaca_eval": read_instructions,
        "mt_bench": read_questions,
    }.items()
    for kind in (".json", ".jsonl", ".parquet")
}

FOLDERS: dict[str, tuple[tuple[str, ...], Callable[[Path], Any]]] = {
    "features": (("prompt.npy", "response.npy"), store.load),
    "reward head": (("reward_head/reward_head.json", "reward_head/head.safetensors"), RewardHead.load),
    "reward model": (("reward_model.json", "arrays.safetensors", "report.json"), reward_model_files.load),
    "checkpoint to resume": (
        ("step-00000001/state.json", "step-00000001/weights.safetensors", "step-00000001/optimizer.safetensors"),
        resume,
    ),
    "plan of parts to resume": (("step-00000001/.metadata",), resume),
    "plan of parts to evaluate": (
        ("step-00000001/.metadata",),
        lambda folder: load_weights(folder, parameters(), ALONE),
    ),
    "saved data set": (
        ("data-00000-of-00001.arrow", "state.json", "dataset_info.json"),
        lambda folder: read_rows(data(folder)),
    ),
}

REFUSALS = (ValueError, OSError, SafetensorError, yaml.YAMLError)


@pytest.fixture
def mark(tmp_path: Path) -> Path:
    return tmp_path / "it-ran"


@pytest.fixture(params=POISONS)
def poison(request: pytest.FixtureRequest, mark: Path) -> bytes:
    content = POISONS[request.param](Evil(mark))
    assert not mark.exists()
    return content


def test_the_poison_works(mark) -> None:
    pickle.loads(pickle.dumps(Evil(mark)))
    assert mark.is_dir()
    mark.rmdir()
    np.load(io.BytesIO(as_numpy(Evil(mark))), allow_pickle=True)
    assert mark.is_dir()
    mark.rmdir()
    torch.load(io.BytesIO(as_torch(Evil(mark))), weights_only=False)
    assert mark.is_dir()


@pytest.mark.parametrize(("name", "read"), FILES.values(), ids=FILES)
def test_a_poisoned_file_runs_nothing(tmp_path, mark, poison, name, read) -> None:
    path = tmp_path / "folder" / name
    path.parent.mkdir(parents=True)
    path.write_bytes(poison)
    with contextlib.suppress(*REFUSALS):
        read(path)
    assert not mark.exists()


@pytest.mark.parametrize(("names", "read"), FOLDERS.values(), ids=FOLDERS)
def test_a_poisoned_folder_runs_nothing(tmp_path, mark, poison, names, read) -> None:
    for name in names:
        (tmp_path / "folder" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "folder" / name).write_bytes(poison)
    with contextlib.suppress(*REFUSALS):
        read(tmp_path / "folder")
    assert not mark.exists()


def test_a_recipe_makes_no_objects(mark) -> None:
    with pytest.raises(yaml.YAMLError):
        load_recipe(f"!!python/object/apply:os.mkdir ['{mark}']")
    assert not mark.exists()


def test_a_plan_of_parts_is_left_alone_beside_whole_tensors_and_refused_without(tmp_path, poison, mark) -> None:
    step = tmp_path / "step-00000001"
    step.mkdir()
    save_file({"a": torch.ones(2)}, step / "weights.safetensors")
    save_file({}, step / "optimizer.safetensors")
    (step / "state.json").write_text(json.dumps({"step": 1, "pairs": 2, "tokens": 3, "objective": {}}))
    (step / ".metadata").write_bytes(poison)
    weights = parameters()
    load_weights(tmp_path, weights, ALONE)
    assert weights["a"].tolist() == [1, 1] and not mark.exists()
    (step / "weights.safetensors").unlink()
    (step / "optimizer.safetensors").unlink()
    for read in (resume, lambda folder: load_weights(folder, parameters(), ALONE)):
        with pytest.raises(ValueError, match=r"step-00000001 is in parts with a pickled plan.*can run code: finish"):
            read(tmp_path)
    assert not mark.exists()


def save_model(folder: Path) -> Path:
    tokenizer = train_tokenizer(["red green blue"], 270)
    shape = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
    config = AutoConfig.for_model("llama", vocab_size=len(tokenizer), **shape)
    AutoModelForCausalLM.from_config(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def load(folder: Path) -> None:
    config = ModelConfig(path=str(folder))
    load_policy(config, load_tokenizer(config, ()), ALONE, seed=0)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["pytorch_model.bin", "model.pt", "weights.pth", "model.ckpt", "model.pkl"])
def test_a_model_with_pickled_weights_is_refused_before_anything_loads_them(tmp_path, mark, poison, name) -> None:
    folder = save_model(tmp_path / "model")
    load(folder)
    (folder / name).write_bytes(poison)
    load(folder)  # whole safetensors are there
    (folder / "model.safetensors").unlink()
    with pytest.raises(ValueError, match=rf"model\.path .* has pickled weights \({name}\), which can run code"):
        load(folder)
    assert not mark.exists()


def test_an_index_that_names_pickled_weights_is_refused(tmp_path, mark, poison) -> None:
    folder = save_model(tmp_path / "model")
    os.replace(folder / "model.safetensors", folder / "model-00001-of-00002.safetensors")
    (folder / "shard.bin").write_bytes(poison)
    weights = {"model.embed_tokens.weight": "shard.bin", "model.norm.weight": "model-00001-of-00002.safetensors"}
    (folder / "model.safetensors.index.json").write_text(json.dumps({"metadata": {}, "weight_map": weights}))
    with pytest.raises(ValueError, match=r"has pickled weights \(shard\.bin\)"):
        load(folder)
    assert not mark.exists()


@pytest.mark.parametrize("name", ["model.safetensors", "tokenizer.json", "tokenizer_config.json", "config.json"])
def test_a_poisoned_file_of_a_model_runs_nothing(tmp_path, mark, poison, name) -> None:
    folder = save_model(tmp_path / "model")
    (folder / name).write_bytes(poison)
    with pytest.raises(REFUSALS):
        load(folder)
    assert not mark.exists()


def test_a_classifier_with_pickled_weights_is_refused(tmp_path, mark, poison) -> None:
    tokenizer = train_tokenizer(["red green blue"], 270)
    shape = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
    config = LlamaConfig(vocab_size=len(tokenizer), num_labels=1, **shape)
    LlamaForSequenceClassification(config).save_pretrained(tmp_path / "model")
    tokenizer.save_pretrained(tmp_path / "model")
    os.replace(tmp_path / "model" / "model.safetensors", tmp_path / "kept")
    (tmp_path / "model" / "pytorch_model.bin").write_bytes(poison)
    with pytest.raises(ValueError, match=r"rewards\.model .* has pickled weights \(pytorch_model\.bin\)"):
        classifier_scores(str(tmp_path / "model"), ["a"], ["b"], tokens_per_batch=10, device=torch.device("cpu"))
    assert not mark.exists()


@pytest.mark.parametrize("command", ["merge", "chat", "evaluate"])
def test_an_adapter_with_pickled_weights_is_refused_by_every_command(command, tmp_path, mark, poison, capsys) -> None:
    adapter = save_adapter(tmp_path / "adapter", save_base(tmp_path / "base"))
    (adapter / "adapter_model.safetensors").unlink()
    (adapter / "adapter_model.bin").write_bytes(poison)
    path = tmp_path / "pairs.jsonl"
    path.write_text(json.dumps({"prompt": "a", "chosen": " b", "rejected": " c"}) + "\n")
    flags = {
        "merge": ["--output", str(tmp_path / "merged")],
        "chat": ["--device", "cpu"],
        "evaluate": [
            *("--output", str(tmp_path / "report.json"), "--data.path", str(path), "--max_length", "64"),
            *("--answers.per_prompt", "0", "--device", "cpu"),
        ],
    }
    assert main([command, "--model", str(adapter), *flags[command]]) == 2
    assert "has pickled weights (adapter_model.bin), which can run code" in capsys.readouterr().err
    assert not mark.exists()


READING = {"load", "loads", "safe_load", "compose", "load_file", "open_memmap"}
OF_MODULES = {"json", "np", "yaml", "format"}
READERS = {
    *("agreement.py", "checksums.py", "files.py", "lifeline.py", "peers.py", "recipe.py", "threads.py"),
    *("recipe_shelf.py", "demo/generate.py", "demo/run.py", "integrations/trl_recipe.py", "report/run_files.py"),
    *("data/arrow_rows.py", "data/marks.py", "data/strict_json.py"),
    *("sampling/drawer.py", "sampling/store.py", "evaluation/command/subject.py"),
    *("training/run_folder.py", "training/stored_tensors.py", "training/summary.py", "training/trackers.py"),
    *("pipeline/origin.py", "pipeline/rows_file.py", "rewards/reward_model_files.py", "rewards/store.py"),
    *("models/adapters.py", "models/pretrained.py", "models/saved_files.py", "models/saving.py", "models/trained.py"),
}
"""Modules that read files, each tried above, or what this job or package has written."""


def test_every_module_that_reads_is_tried_above() -> None:
    """A new one fails here: give it a poisoned file in `FILES` or `FOLDERS`, and its name in `READERS`."""
    root = Path(iwpo_fast.__file__).parent
    trees = {path.relative_to(root).as_posix(): ast.parse(path.read_text(encoding="utf-8")) for path in MODULES}
    assert {name for name, tree in trees.items() if _reads(tree)} == READERS


def _reads(tree: ast.AST) -> bool:
    nodes = [node for node in ast.walk(tree) if isinstance(node, ast.Attribute)]
    of = [getattr(node.value, "id", getattr(node.value, "attr", "")) for node in nodes]
    found = [node.attr for node, name in zip(nodes, of, strict=True) if node.attr in READING and name in OF_MODULES]
    names = {node.id for node in ast.walk(tree) if isinstance(node, ast.Name)}
    return bool(found) or "safe_open" in names or any(node.attr == "from_pretrained" for node in nodes)


MODULES = sorted(Path(iwpo_fast.__file__).parent.rglob("*.py"))
FORBIDDEN_IMPORTS = {"pickle", "cPickle", "dill", "cloudpickle", "joblib", "shelve", "marshal"}
FORBIDDEN_CALLS = {("torch", "load"), ("yaml", "load"), ("yaml", "unsafe_load"), ("pd", "read_pickle")}


@pytest.mark.parametrize("path", MODULES, ids=lambda path: path.relative_to(path.parents[2]).as_posix())
def test_no_module_reads_a_pickle(path: Path) -> None:
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            assert not {alias.name.split(".")[0] for alias in node.names} & FORBIDDEN_IMPORTS
        if isinstance(node, ast.ImportFrom):
            assert (node.module or "").split(".")[0] not in FORBIDDEN_IMPORTS
        if isinstance(node, ast.Call):
            assert not any(keyword.arg in ("allow_pickle", "weights_only") for keyword in node.keywords)
            if isinstance(node.func, ast.Attribute) and isinstance(node.func.value, ast.Name):
                assert (node.func.value.id, node.func.attr) not in FORBIDDEN_CALLS
            assert not (isinstance(node.func, ast.Name) and node.func.id in ("eval", "exec"))
