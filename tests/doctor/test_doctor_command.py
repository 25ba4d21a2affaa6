from __future__ import annotations

from importlib.metadata import PackageNotFoundError, version

import pytest
import torch

pytest.importorskip("jsonargparse", reason="the command iwpo needs it")

from iwpo_fast.cli import main
from iwpo_fast.doctor import machine, packages


@pytest.fixture
def installed(monkeypatch: pytest.MonkeyPatch) -> dict[str, str | None]:
    """Versions in the place of those that are installed; None for an absent package."""
    given: dict[str, str | None] = {}

    def found(name: str) -> str:
        answer = given.get(name, version(name) if name not in given else None)
        if answer is None:
            raise PackageNotFoundError(name)
        return answer

    monkeypatch.setattr(packages, "version", found)
    return given


def test_the_doctor_names_packages_machine_and_what_would_run(capsys) -> None:
    assert main(["doctor", "--device", "cpu"]) == 0
    said = capsys.readouterr().out
    assert f"\n  torch {version('torch')}\n" in said
    assert "\n  model.precision: fp32, as on every CPU\n" in said
    assert "\n  model.attention: sdpa_by_length first\n" in said
    assert said.endswith("nothing is missing\n")


@pytest.mark.slow
@pytest.mark.skipif(torch.cuda.is_available(), reason="looks at a machine without a GPU")
def test_a_machine_without_a_gpu_is_told_why(capsys) -> None:
    assert main(["doctor"]) == 0
    assert "\n  no GPU: " in capsys.readouterr().out
    assert main(["doctor", "--device", "cuda"]) == 2


def test_an_absent_extra_is_no_fault_and_says_how_to_get_it(installed, capsys) -> None:
    installed["vllm"] = None
    assert main(["doctor", "--device", "cpu"]) == 0
    assert "\n  vllm: vllm: not installed (pip install 'iwpo-fast[vllm]')\n" in capsys.readouterr().out


@pytest.mark.parametrize(("found", "line"), [(None, "xxhash: not installed"), ("0", "peft 0, not >=")])
def test_what_is_needed_and_absent_or_too_old_is_a_fault(found, line, installed, capsys) -> None:
    installed["xxhash" if found is None else "peft"] = found
    assert main(["doctor", "--device", "cpu"]) == 2
    said = capsys.readouterr()
    assert line in said.out and "nothing is missing" not in said.out
    assert said.err.startswith("iwpo: error: 1 packages that are needed are absent or of other versions: pip install '")


def test_tools_of_people_who_work_on_the_library_are_not_listed(capsys) -> None:
    assert {"qlora", "vllm", ""} <= {package.extra for package in packages.packages()}
    assert not {package.wanted.name for package in packages.packages()} & {"pytest", "ruff", "mkdocs-material"}


def test_attention_on_a_gpu_says_what_was_passed_over_and_why(monkeypatch) -> None:
    monkeypatch.setattr(machine, "suited", lambda *_: ["flash_attn_3", "flash_attn_2", "varlen", "sdpa_by_length"])
    absent = {"flash_attn_3": "x is not installed", "flash_attn_2": "y is broken"}
    monkeypatch.setattr(machine, "why_absent", absent.get)
    line = machine._attention(torch.device("cuda"), torch.bfloat16)
    assert line == (
        "model.attention: varlen first, not flash_attn_3: x is not installed, not flash_attn_2: y is broken"
    )
