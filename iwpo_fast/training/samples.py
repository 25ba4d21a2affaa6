"""Answers to a few held-out prompts at every evaluation, so that a person sees what the numbers stand for."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from textwrap import shorten

import numpy as np
import torch
from torch import Tensor
from tqdm.auto import tqdm
from transformers import GenerationConfig, PreTrainedTokenizerBase

from iwpo_fast.data.unique import digests
from iwpo_fast.files import written_aside
from iwpo_fast.models.saving import stop_tokens
from iwpo_fast.terminal import escaped
from iwpo_fast.training.callbacks import Callback, Run

WIDTH = 60
"""Characters of a prompt and of an answer that the terminal shows."""


@dataclass
class Samples(Callback):
    """Writes `step-N.jsonl` into `folder` at every evaluation, and shows the first answer.

    The most probable token is taken each time, so that nothing random is drawn, and a run that goes on writes the same
    file again.

    Args:
        count: how many prompts, the first different ones that are held out and leave room for an answer.
        tokens: tokens of an answer at most; fewer where no prompt leaves room for so many.
        ends: tokens at which an answer ends, beside the tokenizer's and the model's own.
    """

    folder: Path
    count: int
    tokens: int
    ends: Sequence[int]

    def on_evaluation(self, run: Run, metrics: Mapping[str, float]) -> None:
        assert run.job.held_out is not None, "an evaluation has pairs"
        held_out = run.job.held_out.prompt
        first = {key: row for row, key in reversed(list(enumerate(digests(held_out))))}
        different, longest = [held_out[row] for row in sorted(first.values())], run.job.config.data.max_length
        prompts = with_room(different, self.tokens, longest)[: self.count]
        found = self._answers(run, prompts)
        if not run.job.world.is_main:
            return
        texts = [str(run.tokenizer.decode(prompt, clean_up_tokenization_spaces=False)) for prompt in prompts]
        rows = [{"step": run.state.step, "prompt": p, "answer": a} for p, a in zip(texts, found, strict=True)]
        with written_aside(self.folder / f"step-{run.state.step:08d}.jsonl") as aside:
            aside.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")
        prompt, answer = (escaped(shorten(text, WIDTH, placeholder=" …")) for text in (texts[0][-WIDTH:], found[0]))
        tqdm.write(f"step {run.state.step:05d} sample | {prompt} → {answer}")

    def _answers(self, run: Run, prompts: Sequence[np.ndarray]) -> list[str]:
        """All ranks call it, because they may hold the policy together."""
        policy, tokenizer = run.job.policy.eval(), run.tokenizer
        room = run.job.config.data.max_length - max(map(len, prompts))
        ends = sorted({tokenizer.eos_token_id, *stop_tokens(policy.model), *self.ends})
        settings = GenerationConfig(
            do_sample=False,
            max_new_tokens=min(self.tokens, room),
            eos_token_id=ends,
            pad_token_id=tokenizer.pad_token_id,
        )
        ids, mask = _padded_left(prompts, tokenizer, policy.device)
        with torch.no_grad():
            drawn = policy.generate(input_ids=ids, attention_mask=mask, generation_config=settings)
        policy.release()
        answers = drawn[:, ids.shape[1] :].tolist()
        return [str(tokenizer.decode(a, skip_special_tokens=True, clean_up_tokenization_spaces=False)) for a in answers]


def with_room(prompts: Sequence[np.ndarray], tokens: int, longest: int) -> Sequence[np.ndarray]:
    """The prompts behind which so many tokens fit into `longest`, or all where there is none.

    A model need not have positions, nor the tables of its rotary embedding entries, for more than `data.max_length`.
    """
    return [prompt for prompt in prompts if len(prompt) + tokens <= longest] or prompts


def _padded_left(
    prompts: Sequence[np.ndarray], tokenizer: PreTrainedTokenizerBase, device: torch.device
) -> tuple[Tensor, Tensor]:
    """int64 [prompts, longest] each: token ids that end together, and which of them are no padding."""
    width = max(map(len, prompts))
    ids = torch.full((len(prompts), width), tokenizer.pad_token_id)
    mask = torch.zeros_like(ids)
    for row, prompt in enumerate(prompts):
        ids[row, width - len(prompt) :] = torch.from_numpy(prompt.astype(np.int64))
        mask[row, width - len(prompt) :] = 1
    return ids.to(device), mask.to(device)
