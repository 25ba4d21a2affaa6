"""No network in any test, no cache of the user's, few threads, as tests run side by side, and no time limits."""

import gc
import os
import tempfile

os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["TOKENIZERS_PARALLELISM"] = "true"
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("OMP_WAIT_POLICY", "passive")  # where a test asks for two threads, on cores that are taken

import pytest
import torch
from hypothesis import HealthCheck, settings

_home = tempfile.TemporaryDirectory(prefix="iwpo-tests-")  # removed at exit
os.environ["HOME"] = _home.name
if not torch.cuda.is_available():  # Triton looks at its first import whether its kernels are to be interpreted
    os.environ["TRITON_INTERPRET"] = "1"

settings.register_profile("patient", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("patient")

LONGEST_FIRST = (
    "test_ahead_of_time.py",
    "test_sharding.py",
    "test_benchmark_runner.py",
    "test_training_benchmark.py",
    "test_killed.py",
    "test_several_processes.py",
    "test_linear_token_logps.py",
    "test_run.py",
    "test_linear_token_logps_epilogue.py",
    "test_linear_token_logps_regimes.py",
    "test_done_before.py",
    "test_equivalence.py",
    "test_objectives.py",
    "test_weighted_rows.py",
    "test_tuned_rewards.py",
    "test_sample_stage.py",
    "test_tuner.py",
    "test_resume.py",
    "test_exact.py",
    "test_real_data.py",
    "test_layers.py",
    "test_packaging.py",
    "test_absent_packages.py",
)
"""Files in the order of the time that they take, so that none of them is left for the end."""


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    place = {name: number for number, name in enumerate(LONGEST_FIRST)}
    items.sort(key=lambda item: place.get(item.path.name, len(place)))


@pytest.fixture(autouse=True, scope="module")
def little_to_collect() -> None:
    """The garbage collector, which the library calls, does not go through all that has been imported by then.

    Libraries bring 600,000 objects, and one visit of them takes as long as a stage of the pipeline.
    """
    gc.collect()
    gc.freeze()
