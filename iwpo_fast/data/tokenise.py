"""From rows of text to the token ids of every pair, and the account of what was lost on the way."""

from __future__ import annotations

import logging
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np

from iwpo_fast.config import DataConfig
from iwpo_fast.data.as_chat import for_model
from iwpo_fast.data.chat import ChatTemplate
from iwpo_fast.data.columns import REFERENCE
from iwpo_fast.data.encode import encode_rows
from iwpo_fast.data.ledger import Ledger, counted_seams, left_out_lines
from iwpo_fast.data.left_out import left_out, left_out_error
from iwpo_fast.data.pairs import Pairs
from iwpo_fast.data.read import mismatch_error
from iwpo_fast.data.rows import Rows
from iwpo_fast.data.token_cache import load_tokens, save_tokens, tokens_path
from iwpo_fast.data.tokenise_candidates import candidate_counts, candidate_tokens
from iwpo_fast.data.truncate import cut, cut_candidates, fitted, too_long
from iwpo_fast.data.unpaired import SIDES
from iwpo_fast.data.votes import are_absent
from iwpo_fast.limits import check_limits
from iwpo_fast.paths import expanded

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

logger = logging.getLogger(__name__)

TOKEN_SETTINGS = ("max_length", "truncation", "add_eos", "chat_template", "train_on", "on_text_left_out")
"""Settings of the data that decide how texts become tokens, not which texts there are."""


def tokenise(
    rows: Rows, tokenizer: PreTrainedTokenizerBase, config: DataConfig, progress: bool = False
) -> tuple[Pairs, Ledger]:
    """Tokenise, or find in the cache, then fit into `config.max_length`.

    Token ids are those of encoding the prompt and prompt + completion in full, as TRL does; a completion is what
    follows the prompt's tokens, with its end token. Of completions of several turns, the assistant's tokens are trained
    and the others are context. What the chat template does not write of an answer is refused. `config.chat_template`,
    if set, becomes the tokenizer's, so that it is saved with the model.

    Args:
        progress: show a bar on a terminal.

    Raises:
        ValueError: a row does not fit the tokenizer or the limit and the policies do not allow for it, a row with
            reference log-probs is cut, or nothing is left.
    """
    rows = for_model(rows, tokenizer, config.as_chat, config.chat_template)
    encoded, seams, not_written = _checked_encoding(rows, tokenizer, config, progress)
    if rows.candidates is not None:
        encoded = replace(encoded, candidates=candidate_tokens(rows, encoded, tokenizer, config, progress))
    pairs, counts = _cut(rows, encoded, config, tokenizer.bos_token_id)
    ledger = Ledger(
        source=rows.source,
        rows_read=len(rows) + rows.mismatches + rows.unpaired,
        kept=len(pairs),
        max_length=config.max_length,
        truncation=config.truncation,
        dropped_prefix_mismatch=len(rows) - len(encoded) + rows.mismatches,
        equal_scores=_equal_scores(pairs.columns),
        dropped_unpaired=rows.unpaired,
        unread=rows.unread,
        notes=rows.notes,
        plain_for_chat=not rows.conversational and tokenizer.chat_template is not None,
        seams=counted_seams(seams),
        left_out=not_written,
        with_context=int((pairs.tokens_trained < _lengths(pairs)).any(1).sum()),
        **(counts | _singles(pairs)),
    )
    if ledger.kept == 0:
        reasons = ", ".join(f"{count} {reason}" for reason, count in ledger.dropped.items())
        longer = f", raise data.max_length from {config.max_length}, or choose another data.truncation than "
        raise ValueError(
            f"No pair of {rows.source} is left ({reasons}): correct the data"
            f"{longer + config.truncation if ledger.too_long else ''}."
        )
    return pairs, ledger


def tokenise_all(
    rows: Rows, tokenizer: PreTrainedTokenizerBase, config: DataConfig, together: np.ndarray | None = None
) -> tuple[Pairs, np.ndarray]:
    """As `tokenise`, for completions that are wanted each by itself: empty and identical ones stay.

    Args:
        together: int64 [N], rows of equal numbers are cut to one prompt; None cuts each row by itself.

    Returns:
        The pairs, and bool [P, 2], which of their completions are there; others were too long, and are empty.

    Raises:
        ValueError: a row does not fit the tokenizer or the limit and the policies do not allow for it, or nothing is
            left.
    """
    encoded, _, not_written = _checked_encoding(rows, tokenizer, config, progress=True)
    for line in left_out_lines(not_written):
        logger.warning("%s: %s", rows.source, line)
    group = np.arange(len(encoded)) if together is None else together[encoded.row]
    policy, bos = config.truncation, tokenizer.bos_token_id
    pairs, fits = fitted(encoded, group, max_length=config.max_length, policy=policy, bos=bos)
    if not len(pairs):
        raise ValueError(
            f"No row of {rows.source} can be scored: all are longer than {config.max_length} tokens, or have "
            "completions that do not continue their prompt."
        )
    return pairs, fits


def _checked_encoding(
    rows: Rows, tokenizer: PreTrainedTokenizerBase, config: DataConfig, progress: bool
) -> tuple[Pairs, np.ndarray, dict[str, int]]:
    """The pairs as token ids, not yet cut; what was done to each, and what the template leaves out of how many rows.

    What the policies do not allow for is refused.
    """
    check_limits(config, "data")
    use_template(rows, tokenizer, config)
    not_written = unwritten(rows, tokenizer, config)
    encoded, seams = _encoded(rows, tokenizer, config, progress)
    _check_mismatches(rows, encoded, config)
    _check_lengths(rows, encoded, config)
    return encoded, seams, not_written


def unwritten(rows: Rows, tokenizer: PreTrainedTokenizerBase, config: DataConfig) -> dict[str, int]:
    """What the chat template does not write, in words, and of how many rows; an answer or a message is refused."""
    if not rows.conversational:
        unused = sum(map(bool, rows.template or ()))
        return {"tools and chat_template_kwargs, because these rows are plain text": unused} if unused else {}
    found = left_out(rows, ChatTemplate(tokenizer, rows))
    if config.on_text_left_out == "error" and any(kind.is_needed for kind in found):
        raise left_out_error(found, rows)
    of: dict[str, list[np.ndarray]] = {}
    for kind, concerned in found.items():
        of.setdefault(kind.what, []).append(concerned)
    return {what: len(np.unique(np.concatenate(concerned))) for what, concerned in of.items()}


def use_template(rows: Rows, tokenizer: PreTrainedTokenizerBase, config: DataConfig) -> None:
    """Give the tokenizer the chat template of the data, if there is one.

    Raises:
        ValueError: it cannot be read, or conversations have none.
    """
    if config.chat_template is not None:
        tokenizer.chat_template = _template(config.chat_template)
    if rows.conversational and tokenizer.chat_template is None:
        raise ValueError(
            f"{rows.source} holds conversations but the tokenizer has no chat template: set data.chat_template to the "
            "path of one."
        )


def _cut(rows: Rows, encoded: Pairs, config: DataConfig, bos: int | None) -> tuple[Pairs, dict[str, Any]]:
    """The pairs and candidates that fit, with the numbers of their rows; and what the ledger says of the others."""
    pairs, counts = cut(encoded, max_length=config.max_length, policy=config.truncation, bos=bos)
    _check_reference(rows, encoded, pairs, config)
    pairs = _with_columns(pairs, rows)
    if rows.candidates is None:
        return pairs, counts
    left, lost = cut_candidates(encoded, pairs, max_length=config.max_length, policy=config.truncation)
    of_candidates = candidate_counts(rows.candidates, encoded, lost)
    return replace(pairs, candidates=left), {**counts, "candidates": of_candidates}


def _encoded(
    rows: Rows, tokenizer: PreTrainedTokenizerBase, config: DataConfig, progress: bool
) -> tuple[Pairs, np.ndarray]:
    """The pairs as token ids, and what was done to each; from the cache if they are there."""
    path = tokens_path(rows, tokenizer, config)
    found = load_tokens(path)
    if found is None:
        found = encode_rows(rows, tokenizer, config, progress=progress)
        save_tokens(path, *found)
    pairs, seams = found
    return (pairs if rows.present is None else replace(pairs, present=rows.present[pairs.row])), seams


def _singles(pairs: Pairs) -> dict[str, int]:
    """Numbers of rows with one completion, by their names in `Ledger`."""
    if pairs.present is None:
        return {}
    alone = pairs.present[~pairs.present.all(1)]
    return {name: int(there) for name, there in zip(SIDES, alone.sum(0), strict=True)}


def _lengths(pairs: Pairs) -> np.ndarray:
    return np.stack([pairs.chosen.lengths, pairs.rejected.lengths], axis=1)


def _with_columns(pairs: Pairs, rows: Rows) -> Pairs:
    """The pairs with the numbers that their rows bring."""
    columns = {name: values[pairs.row] for name, values in rows.columns.items()}
    weight, smoothing = columns.pop("weight", pairs.weight), columns.pop("label_smoothing", None)
    return replace(pairs, weight=weight, label_smoothing=smoothing, columns=columns)


def _check_mismatches(rows: Rows, pairs: Pairs, config: DataConfig) -> None:
    missing = np.setdiff1d(np.arange(len(rows)), pairs.row)
    if len(missing) and config.on_prefix_mismatch != "drop":
        what = (
            "has a chat template that writes prompt and prompt + completion without a common beginning"
            if config.on_prefix_mismatch == "split"
            else "has prompt tokens that are not the first of prompt + completion, as where a prompt ends in a space "
            "(data.on_prefix_mismatch split tokenises the two apart)"
        )
        raise mismatch_error(what, rows.where(missing[0]), len(missing))


def _check_lengths(rows: Rows, pairs: Pairs, config: DataConfig) -> None:
    over = np.flatnonzero(too_long(pairs, config.max_length))
    if len(over) and config.truncation == "error":
        first = over[0]
        length = pairs.prompt.lengths[first] + max(pairs.chosen.lengths[first], pairs.rejected.lengths[first])
        others = f" (the first of {len(over)})" if len(over) > 1 else ""
        raise ValueError(
            f"{rows.where(pairs.row[first])}{others} has {length} tokens: raise "
            f"data.max_length from {config.max_length}, or choose another data.truncation than error."
        )


def _check_reference(rows: Rows, encoded: Pairs, pairs: Pairs, config: DataConfig) -> None:
    """The reference log-probs in the data are those of uncut texts."""
    kept = np.searchsorted(encoded.row, pairs.row)
    sides = ((encoded.prompt, pairs.prompt), (encoded.chosen, pairs.chosen), (encoded.rejected, pairs.rejected))
    changed = pairs.row[np.any([whole.lengths[kept] != left.lengths for whole, left in sides], axis=0)]
    if len(changed) and REFERENCE[0] in rows.columns:
        others = f" (the first of {len(changed)})" if len(changed) > 1 else ""
        raise ValueError(
            f"{rows.where(changed[0])}{others} is cut to {config.max_length} tokens, so its "
            f"{' and '.join(REFERENCE)} do not belong to what is trained on: raise data.max_length, choose "
            "data.truncation drop, or leave these columns out."
        )


def _equal_scores(columns: dict[str, np.ndarray]) -> int:
    if "score_chosen" not in columns or not len(columns["score_chosen"]):
        return 0
    chosen, rejected = columns["score_chosen"], columns["score_rejected"]
    equal = (chosen == rejected) | (np.isnan(chosen) & np.isnan(rejected))  # votes are as many in a row, or absent
    return int((equal.reshape(len(equal), -1).all(1) & ~are_absent(chosen)).sum())


def _template(path: str) -> str:
    try:
        return expanded(path).read_text(encoding="utf-8")
    except OSError as error:
        raise ValueError(f"data.chat_template {path} cannot be read ({error.strerror}): check the path.") from error
    except UnicodeDecodeError as error:
        raise ValueError(f"data.chat_template {path} is not text in UTF-8: give the path of a template.") from error
