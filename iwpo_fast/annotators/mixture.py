"""A saved mixture of policies: which answers how often, and one of them at a time."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self, cast

import numpy as np
import torch
from peft import PeftModel
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from iwpo_fast.annotators.minmax import Floats
from iwpo_fast.annotators.posterior import Ints
from iwpo_fast.checksums import Damaged
from iwpo_fast.evaluation.sampling import sample_completions
from iwpo_fast.files import load_record
from iwpo_fast.models.pretrained import Source
from iwpo_fast.models.saved_files import is_whole
from iwpo_fast.models.saving import Model
from iwpo_fast.models.trained import base_of, is_adapter, put_on, read_model, read_tokenizer, type_name
from iwpo_fast.paths import expanded

RECORD = "mixture.json"
INSIDE = "mixture"
"""Where a training on types leaves its mixture, in its `output_dir`."""


@dataclass(frozen=True)
class TypePolicy:
    """The policy of a type of annotators.

    Attributes:
        model: perhaps with the adapters of other types, too.
        adapter: the name of its own among them; None for a whole model.
    """

    model: Model
    tokenizer: PreTrainedTokenizerBase
    adapter: str | None = None

    @contextmanager
    def in_use(self) -> Iterator[None]:
        """Inside, the model is this policy."""
        if isinstance(self.model, PeftModel) and self.adapter is not None:
            self.model.set_adapter(self.adapter, inference_mode=True)
        yield


@dataclass(frozen=True)
class Mixture:
    """An answer of it is one of the policy of a type, which is drawn by the weights.

    Attributes:
        folder: has a folder for each type, which is a model or an adapter as any other.
        weights: float64 [K], of sum 1.
    """

    folder: Path
    weights: Floats

    @classmethod
    def load(cls, path: str | Path) -> Self:
        """The mixture in a folder, or in that of the training on types which left it.

        Raises:
            ValueError: there is none, or it is damaged.
        """
        folder = mixture_in(path)
        if folder is None:
            raise ValueError(f"{path} holds no mixture of types: give the output_dir of a training on types.")
        try:
            weights = np.array(load_record(folder / RECORD)["weights"], dtype=np.float64)
            if weights.ndim != 1 or not np.isclose(weights.sum(), 1) or (weights < 0).any():
                raise Damaged(folder / RECORD)
        except (Damaged, KeyError, TypeError, ValueError) as error:
            raise ValueError(f"{folder / RECORD} is damaged: run the training on types again to make it.") from error
        return cls(folder, weights)

    @classmethod
    def is_made_by(cls, folder: Path, settings: Mapping[str, Any]) -> bool:
        """Whether the folder holds a whole mixture that was made so."""
        try:
            record, types = load_record(folder / RECORD), cls.load(folder).weights
        except (Damaged, FileNotFoundError, ValueError):
            return False
        return record.get("made_by") == settings and all(is_whole(folder / type_name(n)) for n in range(len(types)))

    def policies(
        self, device: torch.device, dtype: torch.dtype, *, trust_remote_code: bool = False
    ) -> list[TypePolicy]:
        """The policies of all types for inference; adapters share the one base.

        Raises:
            ValueError: one of them cannot be read, or they do not fit.
        """
        folders = [str(self.folder / type_name(number)) for number in range(len(self.weights))]
        sources = [Source(folder, "model", trust_remote_code=trust_remote_code) for folder in folders]
        if not is_adapter(sources[0]):
            return [TypePolicy(_on(read_model(source, dtype), device), read_tokenizer(source)) for source in sources]
        base = base_of(sources[0])
        model: Model = read_model(base, dtype)
        for number, source in enumerate(sources):
            model = put_on(cast(PreTrainedModel, model), source, base.path, name=type_name(number))
        model = _on(model, device)
        return [TypePolicy(model, read_tokenizer(source), type_name(n)) for n, source in enumerate(sources)]

    def drawn_types(self, count: int, seed: int) -> Ints:
        """int64 [count], of which type's policy each of so many answers is."""
        return np.random.default_rng(seed).choice(len(self.weights), size=count, p=self.weights)

    def generate(
        self,
        prompts: Sequence[str],
        *,
        max_new_tokens: int,
        seed: int,
        temperature: float = 1.0,
        batch_size: int = 128,
        device: str | torch.device = "cpu",
        trust_remote_code: bool = False,
    ) -> list[str]:
        """One completion for each prompt, as text, of the policy that is drawn for it.

        Arguments are those of `iwpo_fast.evaluation.sampling.sample_completions`; weights are read in float32.

        Raises:
            ValueError: a policy cannot be read.
        """
        of, answers = self.drawn_types(len(prompts), seed), [""] * len(prompts)
        policies = self.policies(torch.device(device), torch.float32, trust_remote_code=trust_remote_code)
        for number in np.unique(of).tolist():
            policy, places = policies[number], np.flatnonzero(of == number).tolist()
            with policy.in_use():
                drawn = sample_completions(
                    policy.model,
                    policy.tokenizer,
                    [prompts[place] for place in places],
                    max_new_tokens=max_new_tokens,
                    seed=seed,
                    temperature=temperature,
                    batch_size=batch_size,
                )
            for place, answer in zip(places, drawn, strict=True):
                answers[place] = answer
        return answers


def _on(model: Model, device: torch.device) -> Model:
    return cast(Model, cast(Any, model).eval().to(device))


def mixture_in(path: str | Path) -> Path | None:
    """The folder itself if it holds a mixture, or that inside it; None if neither does."""
    folder = expanded(path)
    return next((place for place in (folder, folder / INSIDE) if (place / RECORD).exists()), None)
