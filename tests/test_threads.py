"""What the commands settle before PyTorch is loaded, and what they leave alone."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from iwpo_fast import threads
from iwpo_fast.threads import NUMBER, SHORT_WAIT, WAITING, cores, hidden_size, hidden_size_of_reward_model, suited

PROGRAM = """
import json, os, sys
from iwpo_fast import cli
assert "torch" not in sys.modules, "the command imports torch before it has settled its threads"
cli.RUN["{command}"] = lambda settings: None
assert cli.main({arguments!r}) == 0
assert "torch" not in sys.modules, "the command imports torch where it has settled its threads too late"
print(json.dumps(dict(os.environ)))
"""


def environment_of(command: str, *arguments: str, **given: str) -> dict[str, str]:
    """The environment in which a command loads PyTorch."""
    inherited = {name: value for name, value in os.environ.items() if name not in (*NUMBER, *WAITING)}
    program = PROGRAM.format(command=command, arguments=[command, *arguments])
    done = subprocess.run(
        [sys.executable, "-c", program], env=inherited | given, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    found: dict[str, str] = json.loads(done.stdout)
    return found


def files(root: Path, contents: dict[str, str]) -> Path:
    for name, text in contents.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text + "\n")
    return root


def topology(*cores_of_cpus: str) -> dict[str, str]:
    return {
        f"sys/devices/system/cpu/cpu{cpu}/topology/thread_siblings_list": core for cpu, core in enumerate(cores_of_cpus)
    }


@pytest.mark.slow
def test_a_command_settles_number_and_waiting_before_torch_is_loaded() -> None:
    pytest.importorskip("jsonargparse", reason="the command iwpo needs it")
    found = environment_of("demo")
    assert SHORT_WAIT.items() <= found.items()
    assert int(found["OMP_NUM_THREADS"]) == suited(cores(), 128)


@pytest.mark.slow
@pytest.mark.parametrize(("name", "value"), [("OMP_WAIT_POLICY", "active"), ("GOMP_SPINCOUNT", "7")])
def test_a_policy_of_waiting_that_the_user_has_set_stays_alone(name: str, value: str) -> None:
    pytest.importorskip("jsonargparse", reason="the command iwpo needs it")
    found = environment_of("train", "--data.path", "x", **{name: value})
    assert {key: found[key] for key in WAITING if key in found} == {name: value}


@pytest.mark.slow
def test_a_number_that_the_user_or_torchrun_has_set_stays() -> None:
    pytest.importorskip("jsonargparse", reason="the command iwpo needs it")
    assert environment_of("train", "--data.path", "x", OMP_NUM_THREADS="3")["OMP_NUM_THREADS"] == "3"


def test_an_import_of_the_library_changes_no_environment() -> None:
    program = (
        "import os; before = dict(os.environ)\nimport iwpo_fast.cli, iwpo_fast.threads\n"
        "assert dict(os.environ) == before"
    )
    subprocess.run([sys.executable, "-c", program], check=True)


def test_where_torch_is_loaded_nothing_is_settled(monkeypatch: pytest.MonkeyPatch) -> None:
    assert "torch" in sys.modules
    for name in (*NUMBER, *WAITING):
        monkeypatch.delenv(name, raising=False)
    threads.settle()
    assert not [name for name in (*NUMBER, *WAITING) if name in os.environ]


def test_hardware_threads_of_one_core_count_once(tmp_path: Path) -> None:
    root = files(tmp_path, topology("0,2", "1,3", "0,2", "1,3"))
    assert cores(root, range(4)) == 2
    assert cores(root, [1, 3]) == 1
    assert cores(tmp_path / "without sys", range(4)) == 4


@pytest.mark.parametrize(
    ("contents", "expected"),
    [
        ({"proc/self/cgroup": "0::/", "sys/fs/cgroup/cpu.max": "200000 100000"}, 2),
        ({"proc/self/cgroup": "0::/", "sys/fs/cgroup/cpu.max": "max 100000"}, 8),
        ({"proc/self/cgroup": "0::/", "sys/fs/cgroup/cpu.max": "50000 100000"}, 1),
        ({"proc/self/cgroup": "0::/", "sys/fs/cgroup/cpu.max": "350000 100000"}, 3),
        ({"proc/self/cgroup": "0::/a/b", "sys/fs/cgroup/a/cpu.max": "400000 100000"}, 4),
        (
            {
                "proc/self/cgroup": "0::/a/b",
                "sys/fs/cgroup/a/b/cpu.max": "600000 100000",
                "sys/fs/cgroup/a/cpu.max": "300000 100000",
            },
            3,
        ),
        ({"proc/self/cgroup": "0::/outside/the/container", "sys/fs/cgroup/cpu.max": "100000 100000"}, 1),
        (
            {
                "proc/self/cgroup": "3:memory:/\n2:cpu,cpuacct:/docker/x",
                "sys/fs/cgroup/cpu,cpuacct/cpu.cfs_quota_us": "250000",
                "sys/fs/cgroup/cpu,cpuacct/cpu.cfs_period_us": "100000",
            },
            2,
        ),
        (
            {
                "proc/self/cgroup": "1:cpu:/job\n0::/",
                "sys/fs/cgroup/cpu/job/cpu.cfs_quota_us": "100000",
                "sys/fs/cgroup/cpu/job/cpu.cfs_period_us": "50000",
                "sys/fs/cgroup/cpu/cpu.cfs_quota_us": "-1",
                "sys/fs/cgroup/cpu/cpu.cfs_period_us": "100000",
            },
            2,
        ),
        ({"proc/self/cgroup": "4:cpuacct:/\n3:cpuset:/", "sys/fs/cgroup/cpuset/cpu.cfs_quota_us": "100000"}, 8),
        ({}, 8),
    ],
    ids=[
        "two CPUs",
        "no limit",
        "half a CPU",
        "a fraction more",
        "limit of the group around",
        "both limited",
        "the path is the host's",
        "version 1",
        "version 1 beside 2",
        "version 1 without cpu",
        "no control groups",
    ],
)
def test_the_quota_of_the_container_bounds_the_threads(tmp_path: Path, contents: dict[str, str], expected: int) -> None:
    assert cores(files(tmp_path, contents), range(8)) == expected


def test_narrow_models_and_several_processes_take_fewer_threads() -> None:
    assert suited(64, None) == 64
    assert suited(64, 128) == 4
    assert suited(2, 128) == 2
    assert suited(64, 16) == 1
    assert suited(64, 4096, processes=8) == 8
    assert suited(2, None, processes=4) == 1


def test_the_hidden_size_is_read_where_the_model_is_a_folder(tmp_path: Path) -> None:
    files(
        tmp_path,
        {"plain/config.json": '{"hidden_size": 64}', "text/config.json": '{"text_config": {"hidden_size": 8}}'},
    )
    files(tmp_path, {"odd/config.json": "[]", "bad/config.json": "{"})
    assert hidden_size(str(tmp_path / "plain")) == 64
    assert hidden_size(str(tmp_path / "text")) == 8
    assert [hidden_size(str(tmp_path / name)) for name in ("odd", "bad", "absent")] == [None] * 3


def test_the_hidden_size_that_a_reward_model_reads_is_found_in_its_record(tmp_path: Path) -> None:
    contents = {"good": '{"language_model": {"hidden_size": 64}}', "odd": "[]", "bad": "{", "none": "{}"}
    for name, content in contents.items():
        (tmp_path / name).mkdir()
        (tmp_path / name / "reward_model.json").write_text(content)
    assert hidden_size_of_reward_model(str(tmp_path / "good")) == 64
    (tmp_path / "run" / "rewards").mkdir(parents=True)
    (tmp_path / "good").rename(tmp_path / "run" / "rewards" / "reward_model")
    assert hidden_size_of_reward_model(str(tmp_path / "run")) == 64, "it may be named by its run"
    assert [hidden_size_of_reward_model(str(tmp_path / name)) for name in ("odd", "bad", "none", "absent")] == [
        None
    ] * 4
