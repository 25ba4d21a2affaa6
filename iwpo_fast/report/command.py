"""Writes the page of a run."""

from __future__ import annotations

from pathlib import Path

from xxhash import xxh3_128_hexdigest

from iwpo_fast.checksums import KEY
from iwpo_fast.command_config import ReportConfig
from iwpo_fast.files import check_folder, written_aside
from iwpo_fast.paths import expanded
from iwpo_fast.report.page import page
from iwpo_fast.report.run_files import RunFiles
from iwpo_fast.report.verdict import verdict
from iwpo_fast.terminal import escaped


def report_run(config: ReportConfig) -> None:
    """Write the page and say the verdict.

    Raises:
        ValueError: one sentence on what is wrong with the run, its files or the output, and what to do.
    """
    run = RunFiles(config.run)
    output = run.folder.page if config.output is None else _check_output(config.output)
    write_page(run, output)
    print(f"{verdict(run)}\nthe report is in {escaped(str(output))}")


def write_page(run: RunFiles, output: Path) -> None:
    """Write the page of a run, aside and then renamed; its last line is the hash of what stands above."""
    text = page(run)
    with written_aside(output) as aside:
        aside.write_text(text + _hash_line(text.encode()), encoding="utf-8")


def is_whole(output: Path) -> bool:
    """Whether the file is a page as `write_page` wrote it."""
    if not output.exists():
        return False
    text, mark, rest = output.read_bytes().rpartition(HASH.encode())
    return bool(mark) and (mark + rest).decode("utf-8", "replace") == _hash_line(text)


HASH = f"<!-- {KEY} "


def _hash_line(text: bytes) -> str:
    return f"{HASH}{xxh3_128_hexdigest(text)} -->\n"


def _check_output(output: str) -> Path:
    path = expanded(output)
    if path.suffix != ".html":
        raise ValueError(f"output is {output}: give the name of a file that ends in .html.")
    if path.is_dir():
        raise ValueError(f"output is {output}, which is a folder: give the name of a file.")
    check_folder("output", path.parent)
    return path
