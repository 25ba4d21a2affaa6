"""What runs, and what is said, where optional packages or the metadata of packages are not there."""

from __future__ import annotations

import json
import subprocess
import sys
from importlib.metadata import PackageNotFoundError

import pytest

from iwpo_fast import versions
from iwpo_fast.cli import main
from iwpo_fast.command_config import DemoConfig
from iwpo_fast.config import DataConfig, TrainConfig
from iwpo_fast.data import read_rows
from iwpo_fast.demo.generate import DatasetSettings
from iwpo_fast.demo.run import run_demo
from iwpo_fast.extras import NotInstalled
from iwpo_fast.pipeline.manifest import PACKAGES, Manifest
from iwpo_fast.training.run_folder import RunFolder

BLOCKED = """
import importlib.abc, sys

class Blocker(importlib.abc.MetaPathFinder):
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in ("datasets", "jsonargparse"):
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)

sys.meta_path.insert(0, Blocker())
"""
NO_METADATA = """
import importlib.metadata

def version(name):
    raise importlib.metadata.PackageNotFoundError(name)

importlib.metadata.version = version
"""


def python(program: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "-c", program, *arguments], capture_output=True, text=True)


@pytest.fixture
def absent(monkeypatch) -> None:
    for name in ("datasets", "jsonargparse"):
        monkeypatch.setitem(sys.modules, name, None)


@pytest.mark.slow
def test_the_library_is_imported_without_datasets_and_jsonargparse() -> None:
    parts = "iwpo_kernels, iwpo_fast.models, iwpo_fast.training, iwpo_fast.pipeline, iwpo_fast.demo"
    done = python(f"{BLOCKED}\nimport {parts}")
    assert done.returncode == 0, done.stderr


def test_the_command_says_in_one_sentence_what_to_install() -> None:
    done = python(f"{BLOCKED}\nfrom iwpo_fast.cli import main\nsys.exit(main(['train', '--data.path', 'x']))")
    assert done.returncode == 2
    assert done.stderr == (
        "iwpo: error: the command iwpo needs jsonargparse, which is not installed: pip install jsonargparse.\n"
    )


@pytest.mark.usefixtures("absent")
def test_the_demo_says_in_one_sentence_what_to_install(tmp_path) -> None:
    with pytest.raises(NotInstalled, match=r"^the demo needs jsonargparse, .*: pip install jsonargparse\.$"):
        run_demo(DemoConfig(output_dir=str(tmp_path / "demo")), dataset=DatasetSettings())
    assert not (tmp_path / "demo").exists()


@pytest.mark.usefixtures("absent")
@pytest.mark.parametrize(("path", "what"), [("some/pairs", "is no file here"), ("{folder}", "is a folder")])
def test_reading_a_data_set_says_in_one_sentence_what_to_install(path, what, tmp_path) -> None:
    path = path.format(folder=tmp_path)
    with pytest.raises(ImportError) as error:
        read_rows(DataConfig(path=path))
    assert str(error.value).startswith(f"data.path {path} {what}, and reading it")
    assert str(error.value).endswith("needs datasets, which is not installed: pip install datasets.")


def test_a_package_that_is_broken_is_not_called_absent(tmp_path, monkeypatch) -> None:
    (tmp_path / "jsonargparse.py").write_text("import no_such_module_anywhere")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "jsonargparse", raising=False)
    with pytest.raises(ModuleNotFoundError, match="no_such_module_anywhere"):
        main(["train"])


def test_the_version_is_unknown_where_there_is_no_metadata() -> None:
    done = python(f"{NO_METADATA}\nimport iwpo_fast\nprint(iwpo_fast.__version__)")
    assert (done.returncode, done.stdout) == (0, "unknown\n"), done.stderr


def test_records_of_runs_hold_unknown_versions_and_are_read_again(tmp_path, monkeypatch) -> None:
    def version(name: str) -> str:
        raise PackageNotFoundError(name)

    monkeypatch.setattr(versions, "version", version)
    config = TrainConfig(data=DataConfig(path="x"), output_dir=str(tmp_path / "run"))
    RunFolder.check(config).open(config, {"model": "a"})
    recorded = json.loads((tmp_path / "run" / "run.json").read_text())
    assert set(recorded["versions"].values()) == {"unknown"} and "datasets" in recorded["versions"]
    RunFolder.check(config)
    path = tmp_path / "manifest.json"
    Manifest(path).start("weigh", "key", {})
    assert json.loads(path.read_text())["stages"]["weigh"]["versions"] == dict.fromkeys(PACKAGES, "unknown")
    assert Manifest(path).was_started("weigh", "key")
