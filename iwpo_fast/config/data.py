"""Where pairs come from and how they become tokens."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Annotated, Literal

from iwpo_fast.limits import BELOW_ONE, NOT_NEGATIVE, POSITIVE, Limits

TruncationPolicy = Literal["drop", "truncate_prompt_left", "truncate_completion", "error"]

PrefixMismatchPolicy = Literal["split", "error", "drop"]

PairsFromCandidates = Literal["best_worst", "all", "pareto"]

Preferred = dict[str, str | float | bool | list[str | float | bool]]

LATER_SETTINGS = (
    *("pairs_from_candidates", "as_chat", "name", "mix", "preferred", "train_on", "on_text_left_out", "json_columns"),
    "win_rate_temperature",
)
"""Settings of the data that came later; records leave them out where they have their defaults."""


@dataclass
class MixedConfig:
    """A data set beside `data.path`, whose other settings it shares.

    Args:
        path: As `data.path`.
        weight: The weights of its pairs are multiplied by it; those of `data.path` are not.
        name: As `data.name`.
        split: As `data.split`.
        columns: As `data.columns`; those of `data.path` do not count here.
        preferred: As `data.preferred`; that of `data.path` does not count here.
        limit: As `data.limit`.
    """

    path: str | list[str]
    weight: Annotated[float, NOT_NEGATIVE] = 1.0
    name: str | None = None
    split: str = "train"
    columns: dict[str, str | None] = field(default_factory=dict)
    preferred: Preferred = field(default_factory=dict)
    limit: Annotated[int, POSITIVE] | None = None


@dataclass
class DataConfig:
    """Where the preference pairs come from and how they become tokens.

    Args:
        path: JSON, JSON Lines, CSV, Parquet or Arrow file, text also as .gz or .zst; a pattern such as data/*.jsonl, a
            list of files, a folder of them or one saved by `datasets`, or a hub id (docs/data.md).
        name: Configuration of a hub data set or of a folder that has several.
        split: Split of a hub data set or of a folder that holds several.
        mix: Further data sets to train on, each with its weight, such as [{path: other.jsonl, weight: 0.5}].
        eval_path: Held-out pairs, in any of the same forms. Without it a part of all data is held out.
        eval_split: Split of `eval_path`; with no `eval_path`, another split of `path`.
        eval_fraction: Fraction of the prompts of `path` held out when no evaluation data is named.
        limit: Use only this many rows of `path`, the first ones; null uses all.
        columns: Which of your columns is which of ours, such as {chosen: good, rejected: bad}, or {first: response_a,
            second: response_b, preferred: winner}; {prompt: instruction+input} joins two, and {system: null} leaves a
            column of ours out.
        preferred: Which values of the column `preferred` mean the first answer, the second or a tie, such as {first:
            model_a, second: model_b, tie: [tie, both bad]} or {first: negative, second: positive, tie: 0}.
        json_columns: Columns whose text is JSON of messages, under our names, such as [prompt, chosen, rejected];
            `auto` finds those in which every text is, and [] leaves all as text, as in data about JSON.
        pairs_from_candidates: The pairs of a row that has scored `candidates` and neither `chosen` nor `rejected`: the
            best against the worst, `all` that differ in score, or `pareto`, one of the upper front of several rewards
            against one of the lowest (docs/candidates.md).
        win_rate_temperature: Scores of candidates become rates of winning against the others of their prompt, with
            score gaps divided by it; null does so only where candidates have lists of several rewards, at 1
            (docs/systems/capo.md).
        as_chat: A prompt that is plain text becomes the user's message and its responses the assistant's, for
            a model that was trained with a chat template; a dialogue in Anthropic's HH form becomes its turns. `auto`
            does so where the model has a chat template, or other rows are conversations.
        max_length: Longest prompt + completion, in tokens.
        truncation: What happens to a pair longer than `max_length`.
        on_prefix_mismatch: What happens to a row whose prompt's tokens are not the first of prompt + completion:
            `split` moves white space from the prompt's end to the completions, or tokenises the two apart where tokens
            merge still; `drop` leaves it out, also where completions do not continue one prompt as text, which the
            others refuse.
        train_on: Of completions of several turns, the tokens of the assistant alone are trained and others are context,
            or `all` are.
        on_text_left_out: Whether a row is an error if the chat template does not write a message, a tool call or the
            reasoning of the answer, or the run says how many rows it leaves what out of, as it does of other texts.
        chat_template: Path of a Jinja file that replaces the tokenizer's chat template; null keeps it.
        add_eos: End each plain-text completion with the end-of-sequence token.
        cache_dir: Folder for tokenised data and reference log-probs; null takes iwpo_fast in
            $XDG_CACHE_HOME or ~/.cache.
        processes: Processes that tokenise, with the same result whatever their number; `auto` is one for each core, or
            fewer where rows are few.
        workers: Threads that make batches ahead of time; 0 makes each when it is needed, `auto` is 1 on a GPU and 0
            on a CPU.
    """

    path: str | list[str]
    name: str | None = None
    split: str = "train"
    mix: list[MixedConfig] = field(default_factory=list)
    eval_path: str | list[str] | None = None
    eval_split: str | None = None
    eval_fraction: Annotated[float, BELOW_ONE] = 0.05
    limit: Annotated[int, POSITIVE] | None = None
    columns: dict[str, str | None] = field(default_factory=dict)
    preferred: Preferred = field(default_factory=dict)
    json_columns: list[str] | Literal["auto"] = "auto"
    pairs_from_candidates: PairsFromCandidates = "best_worst"
    win_rate_temperature: Annotated[float, POSITIVE] | None = None
    as_chat: bool | Literal["auto"] = False
    max_length: Annotated[int, Limits(2)] = 1024
    truncation: TruncationPolicy = "truncate_prompt_left"
    on_prefix_mismatch: PrefixMismatchPolicy = "split"
    train_on: Literal["assistant", "all"] = "assistant"
    on_text_left_out: Literal["error", "say"] = "error"
    chat_template: str | None = None
    add_eos: bool = True
    cache_dir: str | None = None
    processes: Annotated[int, POSITIVE] | Literal["auto"] = "auto"
    workers: Annotated[int, NOT_NEGATIVE] | Literal["auto"] = "auto"
