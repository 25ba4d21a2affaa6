"""Prompts without answers, from a file of their own."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from transformers import PreTrainedTokenizerBase

from iwpo_fast.config import DataConfig
from iwpo_fast.data.as_chat import as_conversations
from iwpo_fast.data.encode import encode_prompts
from iwpo_fast.data.forms import canonical
from iwpo_fast.data.messages import with_messages
from iwpo_fast.data.numbering import Numbering
from iwpo_fast.data.places import Place
from iwpo_fast.data.ragged import Ragged
from iwpo_fast.data.read import template_arguments
from iwpo_fast.data.records import read_all
from iwpo_fast.data.rows import Rows, Text
from iwpo_fast.data.tokenise import use_template
from iwpo_fast.data.truncate import tails
from iwpo_fast.data.unique import digests, numbered


def read_prompts(path: str | Sequence[str], setting: str, like: Rows) -> Rows:
    """The column `prompt` of files in any form that pairs may have, beside whatever other columns there are.

    Args:
        setting: what names the path, for messages.
        like: rows whose kind they have: plain text, or conversations, which plain prompts then become.

    Returns:
        Rows of prompts, with nothing as their answers.

    Raises:
        ValueError: one sentence naming the file or row, and what to do.
    """
    place = Place(path if isinstance(path, str) else list(path), setting=setting)
    records, source = read_all(place)
    numbering = source.numbering
    found = [_prompt_of(record, numbering, number) for number, record in records.items()]
    if not found:
        raise ValueError(f"{setting} {numbering.title} has no rows: name a file of prompts.")
    prompts, template = [prompt for prompt, _ in found], [arguments for _, arguments in found]
    silent: list[Text] = ["" if isinstance(prompt, str) else [] for prompt in prompts]
    numbers, given = np.array(list(records), dtype=np.int64), template if any(template) else None
    rows = Rows(numbering.title, numbers, prompts, silent, silent, template=given, files=numbering.files)
    if like.conversational:
        return as_conversations(rows)
    chats = [place for place, prompt in enumerate(prompts) if not isinstance(prompt, str)]
    if chats:
        raise ValueError(
            f"{rows.where(chats[0])} is a conversation, and {like.source} is plain text: make both of one kind."
        )
    return rows


def encoded_prompts(
    rows: Rows, tokenizer: PreTrainedTokenizerBase, config: DataConfig, *, room: int, setting: str
) -> Ragged:
    """The different prompts of the rows as token ids, each with `room` tokens behind it inside `data.max_length`."""
    use_template(rows, tokenizer, config)
    return with_room_behind(encode_prompts(rows, tokenizer, config), tokenizer, config, room=room, setting=setting)


def with_room_behind(
    prompts: Ragged, tokenizer: PreTrainedTokenizerBase, config: DataConfig, *, room: int, setting: str
) -> Ragged:
    """The different ones, cut or left out as `data.truncation` says where they leave no room.

    Args:
        setting: what says how many tokens that is, for messages.

    Raises:
        ValueError: none is left.
    """
    _, first = numbered(digests(prompts))
    longest = config.max_length - room
    if config.truncation == "truncate_prompt_left":
        lengths = np.minimum(prompts.lengths[first], longest)
        return tails(prompts, first, lengths, tokenizer.bos_token_id)
    fitting = first[prompts.lengths[first] <= longest]
    if not len(fitting):
        raise ValueError(
            f"No prompt leaves room for the {room} tokens of {setting}: raise data.max_length from "
            f"{config.max_length}, or lower {setting}."
        )
    return prompts.take(fitting)


def _prompt_of(record: Mapping[str, Any], numbering: Numbering, number: int) -> tuple[Text, dict[str, Any]]:
    """A prompt in canonical form, and what its chat template is given."""
    try:
        prompt = record.get("prompt")
        if not isinstance(prompt, str | list) or not prompt:
            raise ValueError("has no prompt: add a column prompt of texts, or of lists of messages.")
        row = with_messages({"prompt": prompt}, ["prompt"]) | {"chosen": "", "rejected": ""}
        return canonical(row, may_be_empty=True)[0], template_arguments(record)
    except RecursionError:
        raise ValueError(f"{numbering.where(number)} has values that are nested too deep: make them flatter.") from None
    except ValueError as error:
        raise ValueError(f"{numbering.where(number)} {error}") from None
