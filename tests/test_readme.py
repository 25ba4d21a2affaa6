"""Examples of README and docs run as they are printed."""

import re
from pathlib import Path

import pytest

README = Path(__file__).parent.parent / "README.md"


@pytest.mark.parametrize("name", ["README.md", "docs/iwpo.md"])
def test_the_example_prints_what_its_last_comment_says(name, capsys) -> None:
    (example,) = re.findall(r"```python\n(.*?)```", (README.parent / name).read_text(encoding="utf-8"), flags=re.DOTALL)
    exec(compile(example, name, "exec"), {})
    said = re.findall(r"print\(.*\)  # ([^,\n]*)", example)
    assert capsys.readouterr().out.splitlines() == said


def test_every_file_that_the_readme_names_is_there() -> None:
    named = re.findall(r"(?:recipes|docs|benchmarks)/[\w./-]+\.\w+", README.read_text(encoding="utf-8"))
    assert named
    assert [name for name in named if not (README.parent / name).exists()] == []
