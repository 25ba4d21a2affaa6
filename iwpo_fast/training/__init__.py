"""The training loop and what it needs."""

from iwpo_fast.training.callbacks import Callback, Run
from iwpo_fast.training.loop import train
from iwpo_fast.training.summary import TrainSummary

__all__ = ["Callback", "Run", "TrainSummary", "train"]
