"""Features in a cache that several jobs use, that is damaged, or for which the disk has no room."""

from __future__ import annotations

import errno
import multiprocessing
import os
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from test_features import features, make_policy, pairs, policy, saved  # noqa: F401 - fixtures

from iwpo_fast.rewards import store

MEET = 60.0


def compute_when_told(folder: Path, start: float, answers: multiprocessing.Queue) -> None:
    torch.set_num_threads(1)
    from test_features import make_policy, pairs

    own_pairs = pairs.__wrapped__()
    own_policy = make_policy()
    time.sleep(max(0.0, start - time.time()))
    try:
        found = features(own_policy, own_pairs, folder)
        answers.put((found.prompt.tobytes(), found.response.tobytes()))
    except BaseException as error:
        answers.put(repr(error))
