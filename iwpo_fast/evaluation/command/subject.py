"""A model that is evaluated: its log-probs of texts, and its answers."""

from __future__ import annotations

import gc
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from peft import PeftModel
from transformers import PreTrainedTokenizerBase

from iwpo_fast.command_config import EvaluateConfig
from iwpo_fast.config import CandidateConfig, DataConfig, ModelConfig
from iwpo_fast.data.as_chat import for_model
from iwpo_fast.data.columns import REFERENCE
from iwpo_fast.data.encode import encode_prompts
from iwpo_fast.data.rows import Rows
from iwpo_fast.data.tokenise import tokenise_all, use_template
from iwpo_fast.data.truncate import tails
from iwpo_fast.models import Policy, load_policy, load_tokenizer
from iwpo_fast.models.reference import with_reference
from iwpo_fast.models.saved_files import check_saved
from iwpo_fast.models.saving import merge
from iwpo_fast.models.trained import base_of, is_adapter, source_of
from iwpo_fast.paths import expanded
from iwpo_fast.sampling.blocks import blocks_of, seed_of
from iwpo_fast.sampling.drawer import Drawer, backend_of, drawn_by_engine, drawn_by_policy, ends_of_answers, text_of
from iwpo_fast.world import World


class Logps(NamedTuple):
    """Log-probs of the two completions of N rows.

    Attributes:
        sums: float64 [N, 2], in nats, over all tokens of a completion; NaN for what is too long.
        tokens: float64 [N, 2], how many these are, its end among them.
    """

    sums: np.ndarray
    tokens: np.ndarray

    @property
    def means(self) -> np.ndarray:
        return self.sums / np.maximum(self.tokens, 1)


class Answer(NamedTuple):
    """A drawn answer: its text, its token ids without the end, and whether it ended by itself."""

    text: str
    tokens: list[int]
    ended: bool


@dataclass
class Subject:
    """One of the models that are evaluated. It is in memory from its first use until `free`.

    Attributes:
        setting: what names it, `model` or `against`.
        path: folder or hub id of the model or adapter itself.
        base: of the model whose weights are loaded, that under an adapter.
        cache: folder for tokens and log-probs.
    """

    config: EvaluateConfig
    setting: str
    path: str
    base: str
    world: World
    cache: Path
    _kept: dict[str, Any] = field(default_factory=dict, repr=False)

    @classmethod
    def of(cls, config: EvaluateConfig, setting: str, world: World, cache: Path) -> Subject:
        """The model that a setting names.

        Raises:
            ValueError: it has random weights, its run has not finished, or it is an adapter that names no base.
        """
        source = source_of(getattr(config, setting), setting, trust_remote_code=config.trust_remote_code)
        base = base_of(source) if is_adapter(source) else source
        return cls(config, setting, source.path, base.path, world, cache)

    @property
    def name(self) -> str:
        """What it is called in tables and answers: the end of the path that was given."""
        given = str(getattr(self.config, self.setting))
        return expanded(given).resolve().name if expanded(given).is_dir() else given

    @property
    def tokenizer(self) -> PreTrainedTokenizerBase:
        if "tokenizer" not in self._kept:
            self._kept["tokenizer"] = self._read(lambda: load_tokenizer(self._settings(self.path), ()))
        tokenizer: PreTrainedTokenizerBase = self._kept["tokenizer"]
        return tokenizer

    def logps(self, rows: Rows, data: DataConfig) -> Logps:
        """Log-probs of the completions of the rows, as the model's own tokenizer writes them."""
        rows = for_model(rows, self.tokenizer, data.as_chat, data.chat_template)
        data = replace(data, cache_dir=str(self.cache))
        pairs, fits = tokenise_all(rows, self.tokenizer, data)
        pairs = replace(pairs, columns={n: v for n, v in pairs.columns.items() if n not in REFERENCE})
        budget = self.config.tokens_per_batch
        found = with_reference(self.policy, pairs, self.world, self.cache, tokens_per_batch=budget, workers=0)
        sums, tokens = np.full((len(rows), 2), np.nan), np.zeros((len(rows), 2))
        assert found.ref_logps is not None
        sums[pairs.row] = np.where(fits, found.ref_logps, np.nan)
        tokens[pairs.row] = pairs.tokens_trained
        return Logps(sums, tokens)

    def answers(self, rows: Rows, data: DataConfig, asked: CandidateConfig) -> list[list[Answer]]:
        """`asked.per_prompt` answers to the prompt of each row, whose beginning is cut where it leaves no room."""
        rows = for_model(rows, self.tokenizer, data.as_chat, data.chat_template)
        use_template(rows, self.tokenizer, data)
        tokens = encode_prompts(rows, self.tokenizer, data)
        room = np.minimum(tokens.lengths, data.max_length - asked.max_new_tokens)
        tokens = tails(tokens, np.arange(len(tokens)), room, self.tokenizer.bos_token_id)
        found: list[list[Answer]] = [[] for _ in range(len(rows))]
        for number, block in enumerate(blocks_of(tokens.lengths, asked, self._backend)):
            some = tokens.take(block.prompt)
            draws = self._drawer(some, asked, seed_of(self.config.seed, number, some))
            for prompt, drawn in zip(block.prompt, draws, strict=True):
                found[prompt].append(Answer(text_of(drawn, self.tokenizer), drawn.tokens, drawn.ended))
        return found

    @property
    def policy(self) -> Policy:
        if "policy" not in self._kept:
            self._kept["policy"] = self._read(self._load)
        policy: Policy = self._kept["policy"]
        return policy

    def free(self) -> None:
        """Free the memory of the model."""
        self._kept.pop("policy", None)
        self._kept.pop("drawer", None)
        gc.collect()

    @property
    def _backend(self) -> str:
        asked = self.config.answers.backend
        if self.path != self.base:
            if asked == "vllm":
                raise ValueError(
                    f"answers.backend is vllm and {self.setting} {self.path} is an adapter: set it to transformers, or "
                    "merge the adapter into its base (iwpo merge)."
                )
            return "transformers"
        return backend_of(asked, self._settings(self.base), self.world)

    @property
    def _drawer(self) -> Drawer:
        if "drawer" not in self._kept:
            self._kept["drawer"] = self._new_drawer()
        drawer: Drawer = self._kept["drawer"]
        return drawer

    def _new_drawer(self) -> Drawer:
        ends = ends_of_answers(self.base, self.tokenizer)
        if self._backend == "vllm":
            self.free()  # because the engine takes most of the memory
            config = self.config
            model = self._settings(self.base)
            return drawn_by_engine(model, ends=ends, max_length=config.max_length, seed=config.seed)
        return drawn_by_policy(self.policy, ends=ends, pad=int(self.tokenizer.pad_token_id))

    def _load(self) -> Policy:
        """The model, with its adapter merged into it."""
        model, limit = self._settings(self.base), self.config.max_length
        policy = load_policy(model, self.tokenizer, self.world, seed=self.config.seed, max_length=limit)
        if self.path != self.base:
            folder = expanded(self.path)
            check_saved(folder, self.setting, weights=True)
            merged = merge(PeftModel.from_pretrained(policy.causal_lm, str(folder)))
            assert merged is policy.causal_lm, "peft merges in place"
        policy.requires_grad_(False)
        return policy.eval()

    def _settings(self, path: str) -> ModelConfig:
        return ModelConfig(path, precision=self.config.precision, trust_remote_code=self.config.trust_remote_code)

    def _read(self, load: Any) -> Any:
        """What `load` reads, where errors name the settings of this command."""
        try:
            return load()
        except ValueError as error:
            said = str(error).replace("model.path", self.setting).replace("data.max_length", "max_length")
            raise ValueError(said.replace("model.trust_remote_code", "trust_remote_code")) from error
