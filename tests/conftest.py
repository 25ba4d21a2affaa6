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
os.environ.pop("XDG_CACHE_HOME", None)
if not torch.cuda.is_available():  # Triton looks at its first import whether its kernels are to be interpreted
    os.environ["TRITON_INTERPRET"] = "1"

settings.register_profile("patient", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("patient")

LONGEST_FIRST = (
    "test_ahead_of_time.py",
    "test_arms.py",
    "test_flipped_bits.py",
    "test_sharding.py",
    "test_ranks_together.py",
    "test_evaluate_command.py",
    "test_run.py",
    "test_preferred_pairs.py",
    "test_several_processes.py",
    "test_benchmark_runner.py",
    "test_mixture_clusters.py",
    "test_trl_trainer.py",
    "test_signals.py",
    "test_killed.py",
    "test_linear_token_logps.py",
    "test_sample_stage.py",
    "test_packaging.py",
    "test_examples.py",
    "test_suite.py",
    "test_resume.py",
    "test_network_heads.py",
    "test_cli.py",
    "test_bad_input.py",
    "test_done_before.py",
    "test_rewards_of_candidates.py",
    "test_mixture_run.py",
    "test_pipeline_run.py",
    "test_objectives.py",
    "test_layers.py",
    "test_tuned_rewards.py",
    "test_token_logps.py",
    "test_training_benchmark.py",
    "test_planned_tokens.py",
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
