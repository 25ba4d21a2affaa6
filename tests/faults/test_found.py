"""What fuzzes and careful users found, one by one, each with its siblings."""

from __future__ import annotations

import io
import json
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
import yaml
from test_configuration_fuzz import PAIRS, RECIPE
from trained_models import save_adapter, save_base
from transformers import AutoTokenizer

from iwpo_fast.cli import RUN, main
from iwpo_fast.command_config import DemoConfig
from iwpo_fast.config import DataConfig, RunConfig, TrainConfig
from iwpo_fast.config_checks import check_config
from iwpo_fast.data import read_rows
from iwpo_fast.data.saved_tokenizer import save_tokenizer
from iwpo_fast.demo import run as demo
from iwpo_fast.demo.generate import DatasetSettings
from iwpo_fast.demo.run import DemoFolder, _open
from iwpo_fast.pipeline.folder import PipelineFolder
from iwpo_fast.recipe import load_recipe
from iwpo_fast.terminal import escaped
from iwpo_fast.training.run_folder import RunFolder
from iwpo_fast.world import World

HALF = "us\ud800er"
BILLION = "k0: &k0 x\n" + "".join(f"k{i}: &k{i} [{', '.join([f'*k{i - 1}'] * 9)}]\n" for i in range(1, 10))
SAY = {"role": "assistant", "content": "yes"}
ROW: dict[str, Any] = {
    "prompt": [{"role": "user", "content": "x"}],
    "chosen": [SAY],
    "rejected": [SAY | {"content": "no"}],
}


def write_rows(path: Path, *rows: dict[str, Any]) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


@pytest.fixture
def here(tmp_path, monkeypatch) -> Path:
    """A folder with pairs and a recipe, in which commands run."""
    monkeypatch.chdir(tmp_path)
    write_rows(tmp_path / "pairs.jsonl", *PAIRS)
    (tmp_path / "recipe.yaml").write_text(yaml.safe_dump(RECIPE))
    return tmp_path


def train(capsys, *words: str) -> tuple[int, str]:
    code = main(["train", "--config=recipe.yaml", "--data.cache_dir=cache", *words])
    return code, capsys.readouterr().err


@pytest.mark.parametrize(
    "changes",
    [
        {"prompt": [{"role": HALF, "content": "x"}]},
        {"chosen": [SAY | {HALF: "x"}]},
        {"chosen": [SAY | {"name": HALF}]},
        {"rejected": [SAY | {"tool_calls": [{"function": {"name": HALF, "arguments": {}}}]}]},
        {"chosen": json.dumps([{"role": HALF, "content": "x"}])},
        {"tools": [{"name": HALF}]},
        {"tools": json.dumps([{"name": HALF}])},
        {"chat_template_kwargs": {"language": HALF}},
        {"chat_template_kwargs": {HALF: 1}},
        {"prompt_id": HALF},
        {"prompt": HALF, "chosen": "a", "rejected": "b"},
    ],
    ids=str,
)
def test_half_a_character_is_refused_wherever_it_stands_in_a_row(changes, tmp_path) -> None:
    path = write_rows(tmp_path / "rows.jsonl", ROW, ROW | changes)
    with pytest.raises(ValueError, match=r"^In rows\.jsonl, row 2 has half a surrogate pair, which is no character"):
        read_rows(DataConfig(str(path), eval_fraction=0.0))


@pytest.mark.parametrize("suffix", [".parquet", ".arrow"])
def test_a_column_that_is_there_twice_is_named_with_its_file(suffix, tmp_path) -> None:
    table = pa.table([["q"], ["a"], ["b"], ["c"]], names=["prompt", "chosen", "rejected", "chosen"])
    path = tmp_path / f"rows{suffix}"
    if suffix == ".parquet":
        pq.write_table(table, path)
    else:
        with pa.ipc.new_file(str(path), table.schema) as writer:
            writer.write_table(table)
    with pytest.raises(ValueError, match=rf"rows\{suffix} has two columns chosen: rename one\.$"):
        read_rows(DataConfig(str(path)))


@pytest.mark.parametrize("how", ["footer", "a name that is no text"])
def test_a_damaged_parquet_file_is_named(how, tmp_path) -> None:
    path = tmp_path / "rows.parquet"
    pq.write_table(pa.table({name: ["x"] for name in ("prompt", "chosen", "rejected")}), path)
    data = bytearray(path.read_bytes())
    length = int.from_bytes(data[-8:-4], "little")
    if how == "footer":
        data[-8 - length : -8] = b"\xff" * length
    else:
        data[-8 - length : -8] = data[-8 - length : -8].replace(b"prompt", b"\xffrompt")
    path.write_bytes(data)
    with pytest.raises(ValueError, match=r"rows\.parquet cannot be read as Parquet \(.*\): make it or fetch it again"):
        read_rows(DataConfig(str(path)))


@pytest.mark.parametrize(
    "row",
    [
        {"prompt": "q", "answers": [{"answer": "a", "rank": "first"}, {"answer": "b", "rank": 2}]},
        {"prompt": "q", "first": "a", "second": "b", "preferred": 10**400},
        {"prompt": "q", "chosen": {"from": {}, "value": "x"}, "rejected": "n"},
        {"prompt": "q", "chosen": [{"from": "function_call", "value": "[" * 9000}], "rejected": "n"},
        {"prompt": "q", "chosen": "y", "rejected": "n", "system": True},
        {"prompt": "[{'role': 'user', 'content': 'x', 1: 2}]", "chosen": "y", "rejected": "n"},
        {"prompt": "[{'role': 'user', 'content': [{'text': 'x', 1: 2}]}]", "chosen": "y", "rejected": "n"},
        {"prompt": "q", "completions": [{"response": "a", "annotations": [1]}, {"response": "b"}]},
    ],
    ids=str,
)
def test_values_of_another_kind_are_refused_with_their_row(row, tmp_path) -> None:
    path = write_rows(tmp_path / "rows.jsonl", row)
    with pytest.raises(ValueError, match=r"^In rows\.jsonl, row 1 has .*: .*\.$"):
        read_rows(DataConfig(str(path)))


@pytest.mark.parametrize("setting", ["data.cache_dir", "data.path", "data.eval_path", "data.chat_template"])
def test_the_home_of_an_unknown_user_is_a_folder_of_that_name(setting, here, capsys) -> None:
    words = [f"--{setting}=~nobody-here/x.jsonl", *(["--data.path=pairs.jsonl"] if setting != "data.path" else [])]
    words += ["--data.eval_fraction=0"] if setting == "data.eval_path" else []
    code, said = train(capsys, *words, "--dry_run=true")
    assert (code, said.count("\n")) == (0, 0) if setting == "data.cache_dir" else (code == 2 and "~nobody-here" in said)


@pytest.mark.parametrize(
    "error",
    [
        MemoryError(),
        MemoryError("Unable to allocate 7.45 TiB for an array"),
        RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory: you tried to allocate 9 bytes."),
        torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB."),
    ],
    ids=repr,
)
def test_memory_that_does_not_suffice_is_a_sentence(error, here, capsys, monkeypatch) -> None:
    def fails(_: object) -> None:
        raise error

    monkeypatch.setitem(RUN, "train", fails)
    code, said = train(capsys, "--data.path=pairs.jsonl")
    assert code == 2 and said.startswith("iwpo: error: the memory does not hold what the settings ask")


def test_an_error_of_ours_stays_one_with_its_traceback(here, monkeypatch) -> None:
    def fails(_: object) -> None:
        raise RuntimeError("a bug")

    monkeypatch.setitem(RUN, "train", fails)
    with pytest.raises(RuntimeError, match="a bug"):
        main(["train", "--data.path=pairs.jsonl"])


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("a: &a [*a]", "has aliases for more than"),
        (BILLION, "has aliases"),
        ("a: " + "[" * 3000, "nested too deeply"),
        ("a: " + "9" * 5000, "has a value that cannot be"),
        ("a: 1\na: 2", "sets a twice, again in line 2"),
    ],
    ids=["itself", "a billion", "deep", "too long", "twice"],
)
def test_a_recipe_that_no_one_can_read_is_refused(text, why) -> None:
    with pytest.raises(yaml.YAMLError, match=why):
        load_recipe(text)


@pytest.mark.parametrize("text", ["a\nb", "\x1b[2J"])
def test_a_rule_quotes_a_setting_without_what_a_terminal_acts_on(text) -> None:
    config = TrainConfig(DataConfig("pairs.jsonl"))
    config.model.revision = text
    with pytest.raises(ValueError, match=r"^model\.revision is \S+ but the tiny model has none") as error:
        check_config(config)
    assert str(error.value).isprintable()


@pytest.mark.parametrize("name", ["a\nb", "\x1b[2J"])
def test_names_that_a_terminal_acts_on_are_said_escaped_by_every_command(name, tmp_path, monkeypatch, capsys) -> None:
    monkeypatch.chdir(tmp_path)
    base = save_base(tmp_path / f"{name} base")
    adapter = save_adapter(tmp_path / f"{name} adapter", base)
    write_rows(tmp_path / f"{name}.jsonl", *PAIRS)
    of_data = ["--data.path", f"{name}.jsonl", "--device", "cpu", "--max_length=64", "--answers.per_prompt=0"]
    assert main(["merge", "--model", str(adapter), "--output", f"{name} merged"]) == 0
    assert main(["evaluate", "--model", str(adapter), "--output", f"{name}.json", "--resamples=100", *of_data]) == 0
    assert main(["recipes", "--copy", "demo", "--to", f"{name}.yaml"]) == 0
    monkeypatch.setattr(sys, "stdin", io.StringIO("hello\n"))
    of_chat = ["--max_new_tokens", "2", "--device", "cpu"]
    assert main(["chat", "--model", f"{name} merged", "--compare", str(base), *of_chat]) == 0
    said = capsys.readouterr().out
    assert all(line.isprintable() for line in said.splitlines()) and escaped(name) in said


def test_a_chat_without_an_input_ends_at_once(tmp_path, monkeypatch) -> None:
    monkeypatch.setattr(sys, "stdin", None)
    assert main(["chat", "--model", str(save_base(tmp_path / "base")), "--device", "cpu"]) == 0


@pytest.mark.parametrize("command", ["merge", "recipes"])
def test_an_output_that_is_a_link_to_nothing_is_refused_at_the_start(command, tmp_path, monkeypatch, capsys) -> None:
    monkeypatch.chdir(tmp_path)
    Path("link").symlink_to("absent")
    base = save_base(tmp_path / "base")
    given = {"merge": ["--model", str(save_adapter(tmp_path / "adapter", base)), "--output", "link"]}
    assert main([command, *given.get(command, ["--copy", "demo", "--to", "link"])]) == 2
    assert "link exists, and what is in it would be lost" in capsys.readouterr().err
    assert Path("link").is_symlink() and not Path("absent").exists()


def test_a_tokenizer_that_cannot_be_written_is_an_error_of_the_disk(tmp_path) -> None:
    tokenizer = AutoTokenizer.from_pretrained(save_base(tmp_path / "base"))
    (tmp_path / "folder" / "tokenizer.json").mkdir(parents=True)
    with pytest.raises(OSError, match="Is a directory"):
        save_tokenizer(tokenizer, tmp_path / "folder")


def test_data_of_a_demo_that_are_damaged_are_made_again(tmp_path, monkeypatch) -> None:
    class Reached(Exception):
        pass

    def stop(*_: object, **__: object) -> None:
        raise Reached

    monkeypatch.setattr(demo, "warm_up", stop)
    config, dataset = DemoConfig(output_dir=str(tmp_path / "demo")), DatasetSettings(train_pairs=8, eval_pairs=8)
    path, made = tmp_path / "demo" / "data" / "train.jsonl", []
    for _ in range(2):
        with pytest.raises(Reached):
            demo.run_demo(config, dataset=dataset)
        made.append(path.read_bytes())
        path.write_bytes(made[0].replace(b"e", b"d", 1))
    assert made[0] == made[1]


@pytest.mark.parametrize("opened", ["[", "{a: "])
def test_levels_without_end_take_no_time(opened) -> None:
    began = time.process_time()
    with pytest.raises(yaml.YAMLError, match="nested too deeply"):
        load_recipe(opened * 20_000)
    assert time.process_time() - began < 5


def test_an_alias_that_is_used_twice_is_read() -> None:
    assert load_recipe("a: &x {b: 1}\nc: *x\nd: {<<: *x, e: 2}") == {
        "a": {"b": 1},
        "c": {"b": 1},
        "d": {"b": 1, "e": 2},
    }


@pytest.mark.parametrize("value", ["a\0b", HALF, ["x", HALF], {"chosen": HALF}])
def test_settings_that_are_no_text_are_refused_by_their_name(value) -> None:
    name = "columns" if isinstance(value, dict) else "path"
    with pytest.raises(ValueError, match=rf"^data\.{name} is .*: it must be text without null or half characters\.$"):
        check_config(TrainConfig(DataConfig(**{"path": "x", name: value})))


@pytest.mark.parametrize("name", ["rows\x1b[2J.jsonl", "rows\n.jsonl", "rows\u202e.jsonl"])
def test_names_of_files_do_not_act_on_a_terminal(name, here, capsys) -> None:
    write_rows(here / name, {"prompt": "x", "chosen": "\x1b]0;title\x07 y", "rejected": "n"}, *PAIRS)
    code, said = train(capsys, f"--data.path={name}", "--dry_run=true")
    assert (code, said) == (0, "")
    main(["preview", "--config=recipe.yaml", f"--data.path={name}", "--data.cache_dir=cache", "--rows=1"])
    printed = capsys.readouterr().out
    assert all(line.isprintable() for line in printed.split("\n")) and "\\x1b]0;title\\x07" in printed
    write_rows(here / name, {"prompt": "x"})
    code, said = train(capsys, f"--data.path={name}")
    assert code == 2 and said.endswith("\n") and said[:-1].isprintable()


def test_columns_and_lines_do_not_act_on_a_terminal(here, capsys) -> None:
    World(0, 1, torch.device("cpu")).say("a\x1b[31mb\nc")
    assert capsys.readouterr().out == "a\\x1b[31mb\nc\n"
    write_rows(here / "pairs.jsonl", {"prompt": "x", "cho\x1bsen": "y", "rejected": "n"})
    code, said = train(capsys, "--data.path=pairs.jsonl", "--data.columns={rejected: absent}")
    assert code == 2 and said[:-1].isprintable() and "cho\\x1bsen" in said


@pytest.mark.parametrize("target", ["a folder", "nothing"])
def test_a_link_where_a_folder_will_be_is_refused_at_the_start(target, here, capsys) -> None:
    elsewhere = here / "elsewhere"
    if target == "a folder":
        elsewhere.mkdir()
    for folder, config in (("train", TrainConfig), ("run", RunConfig)):
        place = here / folder / ("model" if folder == "train" else "rewards/reward_model")
        place.parent.mkdir(parents=True)
        place.symlink_to(elsewhere)
        with pytest.raises(ValueError, match=r"model is a link, and a folder is to be put in its place: remove"):
            if config is TrainConfig:
                RunFolder.check(TrainConfig(DataConfig("pairs.jsonl"), output_dir=folder))
            else:
                PipelineFolder(here / folder).check()
    code, said = train(capsys, "--data.path=pairs.jsonl", "--output_dir=train")
    assert code == 2 and "train/model is a link" in said
    assert not (here / "cache").exists()


def test_a_link_to_where_caches_and_checkpoints_lie_is_kept(here) -> None:
    (here / "disk").mkdir()
    (here / "out").mkdir()
    (here / "out" / "checkpoints").symlink_to(here / "disk")
    RunFolder(here / "out").refuse_links()


def test_a_demo_that_was_killed_as_it_began_goes_on(tmp_path) -> None:
    (tmp_path / ".demo.json.0a1b2c3d.tmp").write_text("{")
    _open(tmp_path, {"seed": 0})
    _open(tmp_path, {"seed": 0})
    assert json.loads(DemoFolder(tmp_path).record.read_text()) == {"seed": 0}
    assert not list(tmp_path.glob(".*.tmp"))


def test_a_damaged_record_of_a_demo_names_its_folder(tmp_path) -> None:
    (tmp_path / "demo.json").write_text("{")
    with pytest.raises(ValueError, match=r"^output_dir .* holds a demo whose demo\.json is damaged: delete the folder"):
        _open(tmp_path, {"seed": 0})


@pytest.mark.slow
def test_two_demos_in_one_folder_are_refused(tmp_path) -> None:
    _open(tmp_path, {"seed": 0})
    program = (
        f"from pathlib import Path; from iwpo_fast.demo.run import _open; _open(Path({str(tmp_path)!r}), {{'seed': 0}})"
    )
    other = subprocess.run([sys.executable, "-c", program], env=os.environ, capture_output=True, text=True)
    assert "ValueError: another process is running in" in other.stderr
