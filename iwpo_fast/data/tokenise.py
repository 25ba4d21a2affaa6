"""From rows of text to the token ids of every pair, and the account of what was lost on the way."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from iwpo_fast.config import DataConfig
from iwpo_fast.data.columns import REFERENCE
from iwpo_fast.data.encode import Tokens, encode_rows
from iwpo_fast.data.ledger import Ledger
from iwpo_fast.data.pairs import Pairs
from iwpo_fast.data.read import mismatch_error
from iwpo_fast.data.rows import Rows
from iwpo_fast.data.token_cache import load_tokens, save_tokens, tokens_path
from iwpo_fast.data.truncate import Cut, cut, too_long

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


def tokenise(
    rows: Rows, tokenizer: PreTrainedTokenizerBase, config: DataConfig, progress: bool = False
) -> tuple[Pairs, Ledger]:
    """Tokenise, or find in the cache, then fit into `config.max_length`.

    Token ids are those of encoding the prompt and prompt + completion in full, as TRL does; a completion is what
    follows the prompt's tokens, with its end token. `config.chat_template`, if set, becomes the tokenizer's, so that
    it is saved with the model.

    Args:
        progress: show a bar on a terminal.

    Raises:
        ValueError: a row does not fit the tokenizer or the limit and the policies do not allow for it, a row with
            reference log-probs is cut, or nothing is left.
    """
    if config.max_length < 2:
        raise ValueError(f"data.max_length is {config.max_length}: it must be at least 2.")
    if config.chat_template is not None:
        tokenizer.chat_template = _template(config.chat_template)
    if rows.conversational and tokenizer.chat_template is None:
        raise ValueError(
            f"{rows.source} holds conversations but the tokenizer has no chat template: set data.chat_template to the "
            "path of one."
        )
    tokens = _tokens(rows, tokenizer, config, progress)
    _check_mismatches(rows, tokens, config)
    _check_lengths(rows, tokens, config)
    result = cut(tokens, max_length=config.max_length, policy=config.truncation, bos=tokenizer.bos_token_id)
    _check_reference(rows, tokens, result, config)
    columns = {name: values[result.tokens.rows] for name, values in rows.columns.items()}
    ledger = Ledger(
        source=rows.source,
        rows_read=len(rows) + rows.mismatches,
        kept=len(result.tokens.rows),
        max_length=config.max_length,
        truncation=config.truncation,
        too_long=int(too_long(tokens, config.max_length).sum()),
        dropped_prefix_mismatch=len(rows) - len(tokens.rows) + rows.mismatches,
        dropped_too_long=result.dropped_too_long,
        dropped_empty=result.dropped_empty,
        dropped_identical=result.dropped_identical,
        prompts_cut=result.prompts_cut,
        completions_cut=result.completions_cut,
        equal_scores=_equal_scores(columns),
    )
    if ledger.kept == 0:
        reasons = ", ".join(f"{count} {reason}" for reason, count in ledger.dropped.items())
        raise ValueError(
            f"No pair of {rows.source} is left ({reasons}): correct the data, raise data.max_length from "
            f"{config.max_length}, or choose another data.truncation than {config.truncation}."
        )
    return _pairs(result.tokens, columns), ledger


def _tokens(rows: Rows, tokenizer: PreTrainedTokenizerBase, config: DataConfig, progress: bool) -> Tokens:
    path = tokens_path(rows, tokenizer, config)
    tokens = load_tokens(path)
    if tokens is None:
        tokens = encode_rows(rows, tokenizer, add_eos=config.add_eos, progress=progress)
        save_tokens(path, tokens)
    return tokens


def _pairs(tokens: Tokens, columns: dict[str, np.ndarray]) -> Pairs:
    columns = dict(columns)
    weight = columns.pop("weight", np.ones(len(tokens.rows)))
    smoothing = columns.pop("label_smoothing", None)
    return Pairs(tokens.prompt, tokens.chosen, tokens.rejected, weight, smoothing, columns, tokens.rows)


def _check_mismatches(rows: Rows, tokens: Tokens, config: DataConfig) -> None:
    missing = np.setdiff1d(np.arange(len(rows)), tokens.rows)
    if rows.conversational and len(missing) == len(rows):
        raise ValueError(
            f"In no row of {rows.source} are the prompt's tokens the first of prompt + completion: most likely the "
            "chat template ends a prompt with a generation prompt that it does not repeat in front of the answer, so "
            "set data.chat_template to one that does."
        )
    if len(missing) and config.on_prefix_mismatch == "error":
        what = "has prompt tokens that are not the first tokens of prompt + completion"
        raise mismatch_error(what, rows.numbers[missing].tolist(), rows.source)


def _check_lengths(rows: Rows, tokens: Tokens, config: DataConfig) -> None:
    over = np.flatnonzero(too_long(tokens, config.max_length))
    if len(over) and config.truncation == "error":
        row = over[0]
        length = tokens.prompt.lengths[row] + max(tokens.chosen.lengths[row], tokens.rejected.lengths[row])
        others = f" (the first of {len(over)})" if len(over) > 1 else ""
        raise ValueError(
            f"In {rows.source}, row {rows.numbers[tokens.rows[row]]}{others} has {length} tokens: raise "
            f"data.max_length from {config.max_length}, or choose another data.truncation than error."
        )


def _check_reference(rows: Rows, tokens: Tokens, result: Cut, config: DataConfig) -> None:
    """The reference log-probs in the data are those of whole texts."""
    changed = np.intersect1d(tokens.rows[too_long(tokens, config.max_length)], result.tokens.rows)
    if len(changed) and REFERENCE[0] in rows.columns:
        others = f" (the first of {len(changed)})" if len(changed) > 1 else ""
        raise ValueError(
            f"In {rows.source}, row {rows.numbers[changed[0]]}{others} is cut to {config.max_length} tokens, so its "
            f"{' and '.join(REFERENCE)} do not belong to what is trained on: raise data.max_length, choose "
            "data.truncation drop, or leave these columns out."
        )


def _equal_scores(columns: dict[str, np.ndarray]) -> int:
    if "score_chosen" not in columns:
        return 0
    equal = columns["score_chosen"] == columns["score_rejected"]
    return int(equal.reshape(len(equal), -1).all(1).sum())


def _template(path: str) -> str:
    try:
        return Path(path).expanduser().read_text(encoding="utf-8")
    except OSError as error:
        raise ValueError(f"data.chat_template {path} cannot be read ({error.strerror}): check the path.") from error
    except UnicodeDecodeError as error:
        raise ValueError(f"data.chat_template {path} is not text in UTF-8: give the path of a template.") from error
