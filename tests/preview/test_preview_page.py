from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("jsonargparse", reason="the command iwpo needs it")

from iwpo_fast.cli import main

PAGE = Path(__file__).parents[2] / "docs" / "training.md"


def pair(question: str, chosen: str, rejected: str, weight: float) -> dict[str, Any]:
    texts = {"prompt": ("user", question), "chosen": ("assistant", chosen), "rejected": ("assistant", rejected)}
    return {name: [{"role": role, "content": text}] for name, (role, text) in texts.items()} | {"weight": weight}


def test_the_example_of_the_page_is_what_the_command_prints(tmp_path, monkeypatch, capsys) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "100")
    story = " ".join(f"On day {day} the lamp was lit and the boat went out." for day in range(1, 21))
    rows = [
        pair("Is water wet?", "Yes.", "No idea.", 0.5),
        pair("Count to three.", "One,\ntwo,\nthree.", "Three,\ntwo,\none.", 1.0),
        pair("Tell me a story.", story, "I know no story.\n" * 4, 1.5),
    ]
    Path("pairs.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    data = ["--data.path", "pairs.jsonl", "--data.cache_dir", "cache", "--data.eval_fraction", "0"]
    assert main(["preview", *data, "--data.max_length", "1010", "--model.tiny.vocab_size", "260"]) == 0
    assert f"```\n{capsys.readouterr().out}```\n" in PAGE.read_text(encoding="utf-8")
