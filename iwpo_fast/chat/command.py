"""Reads what the user says, line by line, and has every model answer it."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from io import TextIOWrapper

import torch
from peft import PeftModel
from transformers import PreTrainedTokenizerBase

from iwpo_fast import signals
from iwpo_fast.annotators.mixture import Mixture, mixture_in
from iwpo_fast.chat.mixed import Mixed
from iwpo_fast.chat.speaker import Speaker
from iwpo_fast.command_config import ChatConfig
from iwpo_fast.limits import check_limits
from iwpo_fast.models.pretrained import Source
from iwpo_fast.models.saving import Model
from iwpo_fast.models.saving import base_of as base_model
from iwpo_fast.models.sound import check_token_ids
from iwpo_fast.models.trained import (
    base_of,
    check_began_with_a_model,
    is_adapter,
    read_adapter,
    read_model,
    read_tokenizer,
    source_of,
)
from iwpo_fast.terminal import escaped
from iwpo_fast.world import World

NEW, EXIT = "/new", "/exit"


def chat(config: ChatConfig) -> None:
    """Answer every line of the input until it ends.

    Raises:
        ValueError: a model cannot be read or cannot answer; one sentence says what to do.
    """
    check_limits(config)
    world = World.start(config.device)
    if world.size > 1:
        raise ValueError("iwpo chat runs in one process: start it without torchrun.")
    speakers = _speakers(config, world.device)
    print(escaped(_greeting(speakers)), flush=True)
    try:
        _talk(speakers, config.seed)
    except signals.Stopped as stopped:
        if stopped.code != signals.INTERRUPTED:
            raise
        print()  # Ctrl-C is how people leave


def _talk(speakers: list[Speaker], seed: int) -> None:
    for speaker in speakers:
        speaker.forget()
    for turn, line in enumerate(_lines()):
        if line == EXIT:
            return
        for speaker in speakers:
            if line == NEW:
                speaker.forget()
            else:
                _answer(speaker, line, seed + turn)


def _answer(speaker: Speaker, line: str, seed: int) -> None:
    """Have the line answered; on a terminal what cannot be answered is said, and the conversation goes on."""
    before = list(speaker.said)
    try:
        speaker.answer(line, seed)
    except ValueError as error:
        if not sys.stdin.isatty():
            raise
        speaker.said = before
        print(f"iwpo: {escaped(str(error))}", file=sys.stderr)


def _lines() -> Iterator[str]:
    """What the user says, without empty lines; with a prompt and line editing on a terminal."""
    if sys.stdin is None:  # it was closed before Python began
        return
    if isinstance(sys.stdin, TextIOWrapper):
        sys.stdin.reconfigure(encoding="utf-8", errors="replace")  # bytes that are no text are no reason to end
    if not sys.stdin.isatty():
        yield from filter(None, map(str.strip, sys.stdin))
        return
    import readline  # noqa: F401 - input() edits lines and keeps them once it is imported

    while True:
        try:
            line = input("> ").strip()
        except EOFError:
            print()
            return
        if line:
            yield line


def _greeting(speakers: list[Speaker]) -> str:
    names = " beside ".join(speaker.name or speaker.config.model for speaker in speakers)
    if speakers[0].tokenizer.chat_template is None:
        return f"{names}: without a chat template; each line is gone on with as plain text. {EXIT} ends."
    return f"{names}. {NEW} begins a new conversation, {EXIT} ends."


def _speakers(config: ChatConfig, device: torch.device) -> list[Speaker]:
    if mixture_in(config.model) is not None:
        return [_mixed(config, device)]
    source = source_of(config.model, "model", trust_remote_code=config.trust_remote_code)
    if config.compare is None:
        return [Speaker("", *_read(source, device), config)]
    other = _other(config, source)
    model, tokenizer = _read(source, device)
    first = Speaker(config.model, model, tokenizer, config)
    if config.compare == "base" and isinstance(model, PeftModel):
        return [first, Speaker("base", model, tokenizer, config, inside=model.disable_adapter)]
    return [first, Speaker(config.compare, *_read(other, device), config)]


def _mixed(config: ChatConfig, device: torch.device) -> Mixed:
    """A mixture of the policies of types of annotators."""
    if config.compare is not None:
        raise ValueError(
            f"compare is {config.compare} and model {config.model} is a mixture, which talks alone: leave compare out, "
            "or name the folder of one type as model."
        )
    mixture = Mixture.load(config.model)
    policies = mixture.policies(device, _dtype(device), trust_remote_code=config.trust_remote_code)
    return Mixed(
        "",
        policies[0].model,
        policies[0].tokenizer,
        config,
        policies=policies,
        weights=mixture.weights.tolist(),
    )


def _other(config: ChatConfig, source: Source) -> Source:
    """The model that `config.compare` names."""
    assert config.compare is not None
    if config.compare == "base":
        check_began_with_a_model(source)
        return base_of(source)
    return source_of(config.compare, "compare", trust_remote_code=config.trust_remote_code)


def _read(source: Source, device: torch.device) -> tuple[Model, PreTrainedTokenizerBase]:
    """The model, in bfloat16 on a GPU that has it and else in float32, and its tokenizer."""
    dtype = _dtype(device)
    model: Model = read_adapter(source, base_of(source), dtype) if is_adapter(source) else read_model(source, dtype)
    tokenizer = read_tokenizer(source)
    check_token_ids(tokenizer, base_model(model), source.path)
    return model.to(device), tokenizer  # type: ignore[arg-type]


def _dtype(device: torch.device) -> torch.dtype:
    half = device.type == "cuda" and torch.cuda.is_bf16_supported(including_emulation=False)
    return torch.bfloat16 if half else torch.float32
