"""Whether the run in a folder is finished, with a model that is as it was saved."""

from __future__ import annotations

from iwpo_fast.checksums import Damaged
from iwpo_fast.models.saved_files import is_whole
from iwpo_fast.training.checkpoint import checkpoints
from iwpo_fast.training.run_folder import RunFolder
from iwpo_fast.training.summary import TrainSummary
from iwpo_fast.world import World


def finished(folder: RunFolder, world: World) -> TrainSummary | None:
    """The summary of a finished run; None where there is something to do, be it to save a damaged model again.

    Raises:
        ValueError: summary or model is damaged or gone, and there is no checkpoint to make it from.
    """
    if not folder.summary.exists():
        return None
    try:
        summary, damaged = TrainSummary.load(folder.summary), folder.model
    except Damaged:
        summary, damaged = None, folder.summary
    if summary is not None and is_whole(folder.model):
        world.say(f"{folder.path} holds the finished run of this configuration: nothing to do.")
        return summary
    if not checkpoints(folder.checkpoints):
        raise ValueError(
            f"the run in {folder.path} is finished, but {damaged} is damaged or gone and there is no checkpoint to "
            "make it from: choose another output_dir, or empty this one to train again."
        )
    world.say(f"{damaged} is damaged or gone: it is made again from the last checkpoint")
    return None
