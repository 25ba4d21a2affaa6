"""A model in a conversation: it keeps what was said, and its answers appear token by token."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass, field
from typing import cast

import torch
from torch import Tensor
from transformers import GenerationConfig, PreTrainedTokenizerBase, TextStreamer

from iwpo_fast.command_config import ChatConfig
from iwpo_fast.data.bounded import bounded
from iwpo_fast.data.ends import end_of_turn
from iwpo_fast.models.pretrained import reason_of
from iwpo_fast.models.saving import Model, base_of, stop_tokens
from iwpo_fast.terminal import escaped, escaped_lines

Inside = Callable[[], AbstractContextManager[object]]
Messages = list[dict[str, str]]


@dataclass
class Speaker:
    """A model that answers, and its side of the conversation.

    Attributes:
        name: what stands before its answers; empty for nothing.
        inside: what it answers inside of, such as with its adapter off.
        said: the conversation; empty at each line where there is no chat template.
    """

    name: str
    model: Model
    tokenizer: PreTrainedTokenizerBase
    config: ChatConfig
    inside: Inside = nullcontext
    said: Messages = field(default_factory=list)

    def forget(self) -> None:
        """Begin a new conversation."""
        self.said = [] if self.config.system is None else [{"role": "system", "content": self.config.system}]

    def answer(self, line: str, seed: int) -> None:
        """Print the answer to what the user says, as it comes.

        Raises:
            ValueError: the chat template refuses the conversation, the line alone is too long for the model, or its
                probabilities are not numbers.
        """
        self.said.append({"role": "user", "content": line})
        ids = self._prompt()
        if self.name:
            print(f"{escaped(self.name)}: ", end="", flush=True)
        with self.inside(), _drawing(self.model.device, seed):
            answer = self._generated(ids, _Printer(self.tokenizer, skip_prompt=True, skip_special_tokens=True))
        text = str(self.tokenizer.decode(answer, skip_special_tokens=True))
        self.said.append({"role": "assistant", "content": text})

    def _prompt(self) -> Tensor:
        """int64 [1, T], the conversation as ids; its oldest exchanges go where the model has no room for them."""
        if self.tokenizer.chat_template is None:
            self.said = self.said[-1:]
            return self._fitting(self.tokenizer(self.said[0]["content"], return_tensors="pt").input_ids)
        begin = 1 if self.said[0]["role"] == "system" else 0
        while True:
            ids = self._rendered()
            if len(self.said) <= begin + 1 or self._fits(ids):
                return self._fitting(ids)
            del self.said[begin : begin + 2]

    def _rendered(self) -> Tensor:
        try:
            with bounded():
                text = self.tokenizer.apply_chat_template(self.said, tokenize=False, add_generation_prompt=True)
        except Exception as error:  # a template is a program, and may fail in any way
            raise ValueError(
                f"the chat template of {self.config.model} refuses the conversation ({reason_of(error)}): leave out "
                "system, or say something else."
            ) from error
        ids: Tensor = self.tokenizer(text, add_special_tokens=False, return_tensors="pt").input_ids
        return ids

    def _fits(self, ids: Tensor) -> bool:
        room = getattr(base_of(self.model).config.get_text_config(), "max_position_embeddings", None)
        return room is None or ids.shape[1] + self.config.max_new_tokens <= room

    def _fitting(self, ids: Tensor) -> Tensor:
        if not ids.shape[1]:
            raise ValueError("the line is no token to the model, which has nothing to go on with: write some text.")
        if not self._fits(ids):
            raise ValueError(
                f"{ids.shape[1]} tokens and {self.config.max_new_tokens} new ones are more than the model has "
                "positions for: write less, or lower max_new_tokens."
            )
        return ids

    @torch.no_grad()
    def _generated(self, ids: Tensor, printer: TextStreamer) -> Tensor:
        """int64 [T] of the answer."""
        model, ids = base_of(self.model), ids.to(self.model.device)
        settings = self._settings()
        own, model.generation_config = model.generation_config, GenerationConfig()
        generate = cast(Callable[..., Tensor], model.generate)
        try:
            tokens = generate(
                input_ids=ids, attention_mask=torch.ones_like(ids), generation_config=settings, streamer=printer
            )
        except RuntimeError as error:
            if "probability tensor" not in str(error):
                raise
            raise ValueError(f"{self.config.model} gives NaN or infinite logits: check its weights.") from error
        finally:
            model.generation_config = own
        return tokens[0, ids.shape[1] :]

    def _settings(self) -> GenerationConfig:
        draws = self.config.temperature > 0
        ends = {*stop_tokens(self.model), self.tokenizer.eos_token_id, end_of_turn(self.tokenizer)} - {None}
        return GenerationConfig(
            do_sample=draws,
            temperature=self.config.temperature if draws else None,
            top_k=0 if draws else None,
            top_p=self.config.top_p if draws else None,
            max_new_tokens=self.config.max_new_tokens,
            eos_token_id=sorted(ends) or None,
            pad_token_id=self.tokenizer.pad_token_id
            if self.tokenizer.pad_token_id is not None
            else min(ends, default=0),
        )


class _Printer(TextStreamer):
    """Prints an answer as it comes, without anything that a terminal would act on."""

    def on_finalized_text(self, text: str, stream_end: bool = False) -> None:
        print(escaped_lines(text), end="\n" if stream_end else "", flush=True)


@contextmanager
def _drawing(device: torch.device, seed: int) -> Iterator[None]:
    """Inside, draws are those of `seed`; the global random state stays as it was."""
    with torch.random.fork_rng([device] if device.type == "cuda" else []):
        torch.manual_seed(seed)
        yield
