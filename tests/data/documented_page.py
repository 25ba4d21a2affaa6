"""What stands of forms and public data sets in `docs/data.md`.

`python tests/data/documented_page.py docs/data.md`, a part of `make docs`, writes it into the page;
`test_documented_forms.py` reads the rows and compares the page.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import yaml
from documented_forms import FORMS, Form
from documented_schemas import SCHEMAS

NAMES = ("prompt", "chosen", "rejected")


def _lines(form: Form) -> list[str]:
    """A section of the page: the row, the settings, and what it becomes."""
    settings = [f"data: {_flow(form.settings)}"] if form.settings else []
    settings += ["rewards: {heads: dprm}"] if form.votes else []
    if isinstance(form.texts, str):
        result = [f"refused: {form.texts}"]
    else:
        names = NAMES if form.label is None else ("prompt", "desirable" if form.label else "undesirable")
        result = [json.dumps(dict(zip(names, form.texts, strict=form.label is None)))]
    block = [json.dumps(form.row), *settings, f"→ {result[0]}"]
    return [f"### {form.title}", "", "```text", *block, "```", *(["", form.note] if form.note else []), ""]


def _flow(value: Any) -> str:
    return yaml.safe_dump(value, default_flow_style=True, sort_keys=False, width=10_000).strip()


def _cells(form: Form) -> str:
    columns = ", ".join(f"`{name}`" for name in form.row)
    read = f"refused: {form.texts}" if isinstance(form.texts, str) else "read"
    settings = f"`{_flow(form.settings)}`" if form.settings else "–"
    unread = [f"said to be left out: {', '.join(f'`{name}`' for name in form.unread)}"] if form.unread else []
    cells = [form.title, columns, read, settings, "; ".join([form.note, *unread] if form.note else unread)]
    return "| " + " | ".join(cell.replace("|", r"\|") for cell in cells) + " |"


def parts() -> dict[str, str]:
    """The generated parts of the page, by the name of their mark."""
    head = ["| data set | columns | | settings of `data` | |", "|---|---|---|---|---|"]
    return {
        "forms": "\n".join(line for form in FORMS for line in _lines(form)),
        "schemas": "\n".join([*head, *map(_cells, SCHEMAS)]) + "\n",
    }


def with_parts(page: str) -> str:
    """The page with its generated parts anew, each between its marks."""
    for name, text in parts().items():
        begin, end = f"<!-- {name}: generated -->\n", f"<!-- end of {name} -->"
        before, rest = page.split(begin)
        page = f"{before}{begin}\n{text}\n{end}{rest.split(end)[1]}"
    return page


if __name__ == "__main__":
    path = Path(sys.argv[1])
    path.write_text(with_parts(path.read_text(encoding="utf-8")), encoding="utf-8")
