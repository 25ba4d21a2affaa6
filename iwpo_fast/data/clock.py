"""The clock that chat templates read, such as those of Llama 3.2 and gpt-oss: it stands still while a run lasts.

A run keeps the moment at which it began, so that prompts are the same where it goes on another day.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime, tzinfo
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

FUNCTION = "strftime_now"
"""The one function by which a template of transformers can read the clock."""

_moments: list[datetime] = []
_is_read: list[bool] = []
"""Whether a template reads the clock, for each of the moments."""


class _StandingStill(datetime):
    """The class of which transformers asks the time."""

    @classmethod
    def now(cls, tz: tzinfo | None = None) -> Any:
        return _now()


@contextmanager
def clock_at(recorded: str | None) -> Iterator[None]:
    """Inside, templates see one moment: the recorded one, else the one that they see already, else now.

    Args:
        recorded: in ISO 8601, as `moment` gives it.
    """
    from transformers.utils import chat_template_utils

    _moments.append(datetime.fromisoformat(recorded) if recorded else _now())
    _is_read.append(recorded is not None)
    # Templates cannot be given a function, so the one that transformers gives them reads another clock.
    module: Any = chat_template_utils
    module.datetime, before = _StandingStill, module.datetime
    try:
        yield
    finally:
        module.datetime = before
        _moments.pop()
        _is_read.pop()


def moment() -> str:
    """What templates see at present, in ISO 8601 to the second."""
    return _now().isoformat()


def to_keep() -> str | None:
    """The moment, for the record of a run, once a template of it was found to read the clock."""
    return moment() if any(_is_read[-1:]) else None


def shown(tokenizer: PreTrainedTokenizerBase) -> list[str]:
    """What the chat template can write of the clock, such as a date; nothing where it does not read it."""
    source = _source(tokenizer)
    if FUNCTION not in source:
        return []
    _is_read[:] = [True] * len(_is_read)
    formats = re.findall(rf"{FUNCTION}\(\s*(['\"])(.*?)\1\s*\)", source)
    calls = source.count(f"{FUNCTION}(")
    if not formats or len(formats) < calls:  # a format that the template makes up may show anything
        return [moment()]
    return list(dict.fromkeys(_now().strftime(form) for _, form in formats))


def clock_line(tokenizer: PreTrainedTokenizerBase) -> str | None:
    """That prompts hold the time at which the run began, where they do."""
    written = shown(tokenizer)
    if not written:
        return None
    return (
        f"the chat template reads the clock: prompts have {', '.join(written)}, of when this run began, also where it "
        "goes on later"
    )


def _now() -> datetime:
    return _moments[-1] if _moments else datetime.now().replace(microsecond=0)


def _source(tokenizer: PreTrainedTokenizerBase) -> str:
    """The template, or all of them where the tokenizer has several."""
    template = tokenizer.chat_template or ""
    return template if isinstance(template, str) else "\n".join(template.values())
