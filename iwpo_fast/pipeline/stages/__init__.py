"""The stages. Each is a file that defines all of `Stage`, and what it needs of the other protocols."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

from iwpo_fast.config import RunConfig
from iwpo_fast.pipeline.folder import PipelineFolder
from iwpo_fast.pipeline.job import PipelineJob
from iwpo_fast.pipeline.manifest import Result
from iwpo_fast.pipeline.stages import cluster, evaluate, prepare, reference, reward, sample, train, weigh


class Stage(Protocol):
    """One step of the pipeline, from files to files.

    Attributes:
        WHAT: what it does, for the user.
        NEEDS: the stages whose files it reads.
        run: `run(job)`, on rank 0 alone; `run(job, shared)` if there is `on_all_ranks`, with what this returned.
    """

    WHAT: str
    run: Callable[..., Result]

    @property
    def NEEDS(self) -> tuple[str, ...]: ...

    def settings(self, config: RunConfig) -> dict[str, Any]:
        """The part of the configuration that its files depend on, and the content of inputs from outside."""

    def outputs(self, folder: PipelineFolder) -> list[Path]:
        """The files that it writes; some may be absent."""


@runtime_checkable
class Checks(Protocol):
    def check(self, job: PipelineJob) -> None:
        """Raise ValueError for what would stop this stage late; called before the first stage of a call works."""


@runtime_checkable
class WorksOnAllRanks(Protocol):
    def on_all_ranks(self, job: PipelineJob) -> Any:
        """Work that needs all ranks, because they share the model; rank 0 then runs the stage alone."""


@runtime_checkable
class Resumes(Protocol):
    def resumes(self, folder: PipelineFolder) -> Path:
        """A folder in which a killed call is continued; it is removed if the inputs have changed."""


STAGES: dict[str, Stage] = {
    "prepare": prepare,
    "sample": sample,
    "reference": reference,
    "cluster": cluster,
    "reward": reward,
    "weigh": weigh,
    "train": train,
    "evaluate": evaluate,
}
"""In their order, by the names that they have on the command line."""


def stages_of(config: RunConfig) -> dict[str, Stage]:
    """The stages of this configuration: nothing is sampled unless it asks for it."""
    return {name: stage for name, stage in STAGES.items() if name != "sample" or config.candidates.per_prompt}
