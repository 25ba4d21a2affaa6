"""The README's example runs as it is printed."""

import re
from pathlib import Path

README = Path(__file__).parent.parent / "README.md"


def test_the_drop_in_example_prints_what_the_readme_says(capsys):
    examples = re.findall(r"```python\n(.*?)```", README.read_text(encoding="utf-8"), flags=re.DOTALL)
    assert len(examples) == 1
    exec(compile(examples[0], "README.md", "exec"), {})
    assert capsys.readouterr().out == "0.6931\n"


def test_every_file_that_the_readme_names_is_there():
    named = re.findall(r"(?:recipes|docs|benchmarks)/[\w./-]+\.\w+", README.read_text(encoding="utf-8"))
    assert named
    assert [name for name in named if not (README.parent / name).exists()] == []
