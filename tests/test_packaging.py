"""One distribution, two import packages, and nothing that belongs to PyPI's `kernels`."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent


@pytest.fixture(scope="module")
def wheel(tmp_path_factory) -> Path:
    source = tmp_path_factory.mktemp("source")
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, source)
    for name in ("iwpo_fast", "kernels"):
        shutil.copytree(ROOT / name, source / name, ignore=shutil.ignore_patterns("__pycache__"))
    out = tmp_path_factory.mktemp("wheel")
    pip = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-index", "--no-deps", "--no-build-isolation"]
    subprocess.run([*pip, "--wheel-dir", str(out), str(source)], check=True)
    return next(out.glob("iwpo_fast-*.whl"))


@pytest.mark.slow
def test_the_wheel_holds_both_packages_typed_and_no_kernels_package(wheel) -> None:
    names = zipfile.ZipFile(wheel).namelist()
    tops = {name.split("/")[0] for name in names}
    assert {top for top in tops if not top.endswith(".dist-info")} == {"iwpo_fast", "iwpo_kernels"}
    assert {"iwpo_fast/py.typed", "iwpo_kernels/py.typed"} <= set(names)
    expected = {
        str(path.relative_to(folder))
        for folder in (ROOT, ROOT / "kernels")
        for package in ("iwpo_fast", "iwpo_kernels")
        for path in (folder / package).rglob("*.py")
    }
    assert {name for name in names if name.endswith(".py")} == expected
    recipes = {f"iwpo_fast/recipes/{path.name}" for path in (ROOT / "iwpo_fast" / "recipes").glob("*.yaml")}
    assert recipes
    assert {name for name in names if name.endswith(".yaml")} == recipes
    tables = {str(path.relative_to(ROOT / "kernels")) for path in (ROOT / "kernels").rglob("*.json")}
    assert tables
    assert {name for name in names if name.endswith(".json") and "dist-info" not in name} == tables


@pytest.mark.slow
def test_a_separately_installed_kernels_package_stays_whole_and_importable(wheel, tmp_path) -> None:
    site = tmp_path / "site"
    other = site / "kernels" / "__init__.py"
    other.parent.mkdir(parents=True)
    other.write_text("WHOSE = 'the hub package'\n")
    install = [sys.executable, "-m", "pip", "install", "--quiet", "--no-index", "--no-deps", "--no-compile"]
    subprocess.run([*install, "--target", str(site), str(wheel)], check=True)
    program = "import iwpo_kernels, iwpo_fast, iwpo_fast.training, kernels; print(kernels.WHOSE, kernels.__file__)"
    # From the root of the repository, where a folder named `kernels` lies in the working directory.
    found = subprocess.run(
        [sys.executable, "-c", program],
        cwd=ROOT,
        env=os.environ | {"PYTHONPATH": str(site)},
        capture_output=True,
        text=True,
    )
    assert found.returncode == 0, found.stderr
    assert found.stdout.split() == ["the", "hub", "package", str(other)]
    assert other.read_text() == "WHOSE = 'the hub package'\n"
    assert [path.name for path in other.parent.iterdir() if path.name != "__pycache__"] == ["__init__.py"]


def test_kernels_is_a_folder_and_not_a_package() -> None:
    assert not (ROOT / "kernels" / "__init__.py").exists()
