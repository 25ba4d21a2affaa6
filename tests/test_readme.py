"""Examples of README and docs run as they are printed."""

import re
from pathlib import Path

import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM

README = Path(__file__).parent.parent / "README.md"


@pytest.mark.slow
@pytest.mark.parametrize("name", ["docs/start.md", "docs/iwpo.md", "docs/python.md"])
def test_the_example_prints_what_its_last_comment_says(name, capsys) -> None:
    example, *_ = _examples(name)  # others on a page need what may not be installed
    exec(compile(example, name, "exec"), {})
    said = re.findall(r"print\(.*\)  # ([^,\n]*)", example)
    assert said and capsys.readouterr().out.splitlines()[-len(said) :] == said


def _examples(name: str) -> list[str]:
    return re.findall(r"```python\n(.*?)```", (README.parent / name).read_text(encoding="utf-8"), flags=re.DOTALL)


def test_before_and_after_are_the_same() -> None:
    (example,) = _examples("README.md")
    before, after = example.split("from iwpo_fast")
    torch.manual_seed(0)
    model = LlamaForCausalLM(LlamaConfig(vocab_size=97, hidden_size=32, intermediate_size=48, num_hidden_layers=1))
    tokens = torch.randint(97, (2, 9))
    names = {"model": model, "tokens": tokens, "labels": tokens}
    exec(compile(before, "README.md", "exec"), names)
    expected = names["logps"][..., 0]
    exec(compile("from iwpo_fast" + after, "README.md", "exec"), names)
    torch.testing.assert_close(names["logps"][:, 1:], expected, rtol=1e-4, atol=1e-5)


def test_the_readme_is_read_in_a_minute() -> None:
    assert len(README.read_text(encoding="utf-8").splitlines()) <= 70


def test_every_file_that_the_readme_names_is_there() -> None:
    named = re.findall(r"(?:recipes|docs|benchmarks)/[\w./-]+\.\w+", README.read_text(encoding="utf-8"))
    assert named
    assert [name for name in named if not (README.parent / name).exists()] == []
