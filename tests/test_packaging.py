"""One distribution, two import packages, and nothing that belongs to PyPI's `kernels`."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import venv
import zipfile
from importlib.metadata import distribution, files, requires
from pathlib import Path

import pytest
import torch
from packaging.requirements import Requirement

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


@pytest.fixture(scope="module")
def environment(wheel, tmp_path_factory) -> Path:
    """An environment in which the wheel is installed, without packages of its own beside it."""
    folder = tmp_path_factory.mktemp("environment")
    venv.create(folder, with_pip=False, symlinks=True)
    pip = [sys.executable, "-m", "pip", "--python", str(folder / "bin" / "python"), "install", "--quiet"]
    subprocess.run([*pip, "--no-index", "--no-deps", "--no-compile", str(wheel)], check=True)
    return folder


def run_in(environment: Path, packages: Path, *command: str) -> subprocess.CompletedProcess[str]:
    """What a command in the environment says, where it finds the packages in this folder, from another place."""
    (site,) = (environment / "lib").glob("python*/site-packages")
    (site / "others.pth").write_text(f"{packages}\n")
    plain = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    return subprocess.run(
        [str(environment / "bin" / command[0]), *command[1:]],
        cwd=environment,
        env=plain,
        capture_output=True,
        text=True,
    )


@pytest.mark.slow
@pytest.mark.parametrize(
    ("command", "expected"),
    [
        (["demo", "--help"], "--output_dir"),
        (["recipes"], "zephyr_ultrafeedback, for iwpo train"),
        (["recipes", "--copy", "hh_tiny"], "iwpo train --config hh_tiny.yaml"),
        (["doctor", "--device", "cpu"], "nothing is missing"),
        (["chat", "--help"], "--compare"),
        ([], "the whole job: rewards, importance weights, training"),
    ],
)
def test_commands_work_where_the_wheel_is_all_that_is_installed_of_us(environment, command, expected) -> None:
    packages = Path(torch.__file__).parent.parent  # its .pth files, such as of an editable installation, are not read
    found = run_in(environment, packages, "iwpo", *command)
    assert (found.returncode, found.stderr) == (0, "")
    assert expected in found.stdout
    if command[:1] == ["doctor"]:
        assert str(environment) in found.stdout


def all_that_is_needed(name: str, found: set[str]) -> None:
    """Put the distribution and all that it needs here into `found`."""
    if name in found:
        return
    found.add(name)
    for each in map(Requirement, requires(name) or ()):
        if each.marker is None or each.marker.evaluate({"extra": ""}):
            all_that_is_needed(each.name, found)


@pytest.mark.slow
def test_the_kernels_need_torch_and_triton_alone(environment, tmp_path) -> None:
    names: set[str] = set()
    for name in ("torch", "triton"):
        all_that_is_needed(name, names)
    packages = tmp_path / "packages"
    packages.mkdir()
    for name in names:
        for top in {path.parts[0] for path in files(name) or () if path.parts[0] not in ("..", "__pycache__")}:
            link = packages / top
            if not link.is_symlink():
                link.symlink_to(distribution(name).locate_file(top))
    program = """
import sys, torch
from importlib.util import find_spec
from iwpo_kernels import linear_token_logps
assert not any(map(find_spec, ("transformers", "peft", "datasets", "sklearn", "jsonargparse")))
torch.manual_seed(0)
hidden, head, labels = torch.randn(5, 8, requires_grad=True), torch.randn(11, 8), torch.arange(5)
logps = linear_token_logps(hidden, head, labels)
logps.sum().backward()
ours, hidden.grad = hidden.grad, None
expected = (hidden @ head.T).log_softmax(-1).gather(-1, labels[:, None])[:, 0]
expected.sum().backward()
torch.testing.assert_close(logps, expected)
torch.testing.assert_close(ours, hidden.grad)
print("same", sys.modules["iwpo_kernels"].__file__)
"""
    found = run_in(environment, packages, "python", "-W", "ignore", "-c", program)
    assert found.returncode == 0, found.stderr
    assert found.stdout.startswith(f"same {environment}")


def test_kernels_is_a_folder_and_not_a_package() -> None:
    assert not (ROOT / "kernels" / "__init__.py").exists()
