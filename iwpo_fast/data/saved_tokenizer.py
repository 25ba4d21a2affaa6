"""Saves a tokenizer so that a full disk is what Python calls it."""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


def save_tokenizer(tokenizer: PreTrainedTokenizerBase, folder: str | Path) -> None:
    """As `save_pretrained`.

    Raises:
        OSError: a file cannot be written. The tokenizers package raises a bare `Exception` instead.
    """
    try:
        tokenizer.save_pretrained(folder)
    except Exception as error:
        found = re.search(r"\(os error (\d+)\)", str(error))
        if type(error) is not Exception or found is None:
            raise
        number = int(found[1])
        raise OSError(number, os.strerror(number), str(folder)) from error
