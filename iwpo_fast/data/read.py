"""From the configured source to rows for training and rows held out."""

from __future__ import annotations

from array import array
from collections.abc import Mapping
from dataclasses import replace
from itertools import chain, repeat
from typing import Any, NamedTuple

import numpy as np

from iwpo_fast.config import DataConfig
from iwpo_fast.data.annotators import ANNOTATOR
from iwpo_fast.data.answers import check_answers, go_on
from iwpo_fast.data.arrow_rows import RareStore, Stored
from iwpo_fast.data.as_chat import as_conversations, of_one_kind
from iwpo_fast.data.candidate_scores import check_same_rewards
from iwpo_fast.data.candidates import RowOfPairs, read_row, read_written_row
from iwpo_fast.data.columns import (
    NUMBERS,
    PREFERRED,
    SCORES_OF_SIDES,
    TEXTS,
    TURNS,
    check_mapping,
    column_names,
    numeric_columns,
    with_numbers,
)
from iwpo_fast.data.compared import Pairing
from iwpo_fast.data.forms import AnswerMissing, PrefixMismatch, check_encodable
from iwpo_fast.data.gathered import GatheredRows
from iwpo_fast.data.hold_out import hold_out
from iwpo_fast.data.json_text import JsonText, decided
from iwpo_fast.data.messages import check_is_text, with_messages
from iwpo_fast.data.mix import sources_of, together
from iwpo_fast.data.numbering import Numbering
from iwpo_fast.data.places import Place
from iwpo_fast.data.preferred import by_verdict
from iwpo_fast.data.recognise import Recogniser
from iwpo_fast.data.records import Reader, Source
from iwpo_fast.data.row_files import Row
from iwpo_fast.data.rows import Rows
from iwpo_fast.data.strict_json import parsed
from iwpo_fast.data.unpaired import DESIRABLE, read_single
from iwpo_fast.data.unread_numbers import UnreadNumbers
from iwpo_fast.limits import check_limits

HELD_OUT = ", held out"
"""Behind the source of rows that are held out."""
GOES_ON = "rows whose answers go on with turns of the user, because they part before their last turn"
TIE = RowOfPairs([])
"""What a row holds whose two answers are equally good."""


class How(NamedTuple):
    """`written` and `votes` of `read_rows`."""

    written: bool
    votes: bool


def read_rows(config: DataConfig, *, written: bool = False, votes: bool = False) -> tuple[Rows, Rows | None]:
    """Read preference pairs, recognise their form, check them, and hold out the evaluation rows.

    Args:
        written: the library wrote the rows, in the form that this makes of others, and they are taken as they stand.
        votes: several scores of a response are votes on it, as `rewards.heads: dprm` learns from them, and not rewards.

    Returns:
        Rows to train on, and rows held out from training, if any; the `source` of these says so.

    Raises:
        ValueError: one sentence naming the file or row, and what to do.
    """
    check_limits(config, "data")
    sources = sources_of(config)
    how = How(written, votes)
    parts, ids = zip(*(_read_source(source, how) for source, _ in sources), strict=True)
    rows = of_one_kind(together(parts, [weight for _, weight in sources], votes=votes), config.as_chat)
    _check_pairs_are_made(rows, config)
    if config.eval_path is not None or config.eval_split is not None:
        return rows, _evaluation_rows(config, rows, how)
    prompt_ids = chain.from_iterable(
        repeat(None, len(part)) if i is None else i for part, i in zip(parts, ids, strict=True)
    )
    held_out = hold_out(rows.prompt, prompt_ids, config.eval_fraction)
    if held_out.all():
        raise ValueError(f"data.eval_fraction {config.eval_fraction} holds out all of {rows.source}: lower it.")
    train = rows.take(np.flatnonzero(~held_out))
    train = replace(train, mismatches=rows.mismatches, unpaired=rows.unpaired, unread=rows.unread, notes=rows.notes)
    return train, _named_held_out(rows.take(np.flatnonzero(held_out))) if held_out.any() else None


def mismatch_error(what: str, where: str, count: int) -> ValueError:
    """The sentence about rows whose completions do not follow one prompt.

    Args:
        where: what the first of them is called, such as "In pairs.jsonl, row 3".
        count: how many there are.
    """
    others = f" (the first of {count})" if count > 1 else ""
    return ValueError(f"{where}{others} {what}: correct it, or leave such rows out with data.on_prefix_mismatch drop.")


def _check_pairs_are_made(rows: Rows, config: DataConfig) -> None:
    candidates = rows.candidates
    if candidates is not None and candidates.left_out["in_pairs"].any():
        return
    for name, default in (("pairs_from_candidates", "best_worst"), ("win_rate_temperature", None)):
        value = getattr(config, name)
        if value != default:
            raise ValueError(
                f"data.{name} is {value}, but every row of {rows.source} has its chosen and rejected: set data.{name} "
                f"to {default or 'null'}, or leave it out."
            )


def _read_source(config: DataConfig, how: How) -> tuple[Rows, Stored[Any] | None]:
    """The rows of `data.path`, or of one data set of a mix, and the `prompt_id` of each, or None."""
    place = Place(config.path, config.split, config.name)
    read = _read(place, config, config.limit, how)
    columns = read.source.columns
    check_mapping(config.columns, columns, place.title)
    check_is_text(columns, place.title)
    if config.preferred and "preferred" not in {*config.columns, *columns}:
        raise ValueError(
            "data.preferred says which values mean which answer, and no column holds them: name it as preferred in "
            "data.columns."
        )
    return read.rows()


def _evaluation_rows(config: DataConfig, training: Rows, how: How) -> Rows:
    """The rows of `eval_path` or `eval_split`, which are text or conversations as those for training are."""
    place = Place(config.path, config.eval_split, config.name)
    if config.eval_path is not None:
        place = Place(config.eval_path, config.eval_split, setting="data.eval_path")
    # Evaluation data often lack weights and scores.
    read = _read(place, config, limit=None, how=how)
    texts = {ours: theirs for ours, theirs in config.columns.items() if ours in (*TEXTS, *TURNS, *PREFERRED)}
    check_mapping(texts, read.source.columns, place.title)
    check_is_text(read.source.columns, place.title)
    rows = read.rows()[0]
    is_chat = training.conversational and config.as_chat is not False
    rows = as_conversations(rows) if is_chat else of_one_kind(rows, config.as_chat)
    if rows.conversational != training.conversational:
        kinds = [
            f"{part.where(0).removeprefix('In ')}, is {'a conversation' if part.conversational else 'plain text'}"
            for part in (training, rows)
        ]
        raise ValueError(f"{' and '.join(kinds)}: make training and evaluation data of one kind.")
    return _named_held_out(rows)


def _named_held_out(rows: Rows) -> Rows:
    return replace(rows, source=rows.source + HELD_OUT)


def _read(place: Place, config: DataConfig, limit: int | None, how: How) -> _Read:
    """Everything at a place."""
    return decided(config.json_columns, lambda json_text: _read_once(place, limit, _Read(config, json_text, how)))


def _read_once(place: Place, limit: int | None, read: _Read) -> _Read:
    names = column_names(read.config.columns)
    reader = Reader(place, set(names.values()))
    for number, record, others in reader.records(names, limit):
        read.add(number, with_numbers(record) if reader.is_text else record, others)
    read.source = reader.source()
    return read


class _Read:
    """What the rows of a source hold, read one after the other.

    What is wrong with one of them is said behind what is wrong with the whole, which is known when all are read.

    Attributes:
        config: how they are read.
        source: known when all are read.
    """

    source: Source

    def __init__(self, config: DataConfig, json_text: JsonText, how: How) -> None:
        self.config = config
        self._how = how
        self._recognise = Recogniser(config.columns, config.preferred, json_text)
        self._numbers = array("q")
        self._numbers_unread = UnreadNumbers(config.columns)
        self._columns: RareStore[Row] = RareStore({})
        self._gathered = GatheredRows(votes=how.votes)
        self._recognised = self._going_on = 0
        self._rewards: int | None = None
        self._error: tuple[int, ValueError] | None = None
        self._mismatches = array("q")
        self._mismatch = ""

    def add(self, number: int, record: Row, others: Row) -> None:
        """Args:
        record: of our columns.
        others: columns of the source that mean nothing to us.
        """
        try:
            decoded = self._recognise.json(record)  # of every row, because each text decides about its column
            if self._error is None:
                self._add_texts(number, decoded, others)
        except RecursionError:
            self._failed(number, ValueError("has values that are nested too deep: make them flatter."))
        except PrefixMismatch as mismatch:
            self._mismatch = self._mismatch or str(mismatch)
            self._mismatches.append(number)
        except ValueError as error:
            self._failed(number, error)
        self._numbers.append(number)
        numbers = {name: record[name] for name in NUMBERS if name in record}
        if SCORES_OF_SIDES[0] in numbers and "preferred" in record:
            numbers["preferred"] = record["preferred"]
        self._columns.append(numbers)

    def _failed(self, number: int, error: ValueError) -> None:
        self._error = self._error or (number, error)

    def _add_texts(self, number: int, record: Row, others: Row) -> None:
        found = self._recognise(record, others)
        try:
            row = TIE if found is None else _read_one(found, self.config, self._how)
        except AnswerMissing as missing:
            raise missing.among([*record, *others]) from None
        self._numbers_unread(others)
        if row.rewards is not None:
            self._rewards = row.rewards if self._rewards is None else self._rewards
            check_same_rewards(row.rewards, self._rewards)
        self._going_on += go_on(row)
        arguments = template_arguments(record)
        check_encodable(record.get("prompt_id"))
        self._recognised += 1
        beside = {name: record.get(name) for name in ("prompt_id", ANNOTATOR)}
        self._gathered.add(len(self._numbers), number, row, arguments, **beside)

    def rows(self) -> tuple[Rows, Stored[Any] | None]:
        """Rows, which may be of both kinds, and the `prompt_id` of each, or None.

        Raises:
            ValueError: one sentence naming the row.
        """
        numbering = self.source.numbering
        columns = self._numeric_columns(numbering)
        self._check(numbering)
        rows = self._gathered.finish(columns, numbering)
        found, going_on = self._recognise, {GOES_ON: self._going_on} if self._going_on else {}
        unread = {} if self._how.written else self._numbers_unread.notes(columns)  # of what we wrote, nothing is news
        notes = found.json.counts | going_on | unread
        rows = replace(rows, mismatches=len(self._mismatches), unread=found.unread, notes=notes)
        return rows, self._gathered.prompt_ids.finish()

    def _numeric_columns(self, numbering: Numbering) -> dict[str, np.ndarray]:
        records = self._columns.finish()
        if records is None:
            return {}
        columns = numeric_columns(self._numbers, records, numbering, votes=self._how.votes)
        if SCORES_OF_SIDES[0] not in columns:
            return columns
        if not all("preferred" in record for record in records):
            raise ValueError(
                f"{numbering.title} has {' and '.join(SCORES_OF_SIDES)} and no column that says which is better: name "
                "it as preferred in data.columns, or the scores as score_chosen and score_rejected."
            )
        return by_verdict(columns, [self._recognise.means(record["preferred"]) for record in records])

    def _check(self, numbering: Numbering) -> None:
        """Raise ValueError for the first row that cannot be read, or if there are none."""
        if self._error is not None:
            number, error = self._error
            raise ValueError(f"{numbering.where(number)} {error}") from None
        try:
            self._recognise.check_all()
        except ValueError as error:
            raise ValueError(f"{numbering.where(self._numbers[0])} {error}") from None
        if self._mismatches and (self.config.on_prefix_mismatch != "drop" or not self._recognised):
            raise mismatch_error(self._mismatch, numbering.where(self._mismatches[0]), len(self._mismatches))
        if not len(self._gathered) and self.config.pairs_from_candidates == "pareto":
            raise ValueError(
                f"No row of {numbering.title} has candidates of two Pareto fronts: set data.pairs_from_candidates to "
                "best_worst, which compares mean win rates."
            )
        if not len(self._gathered):
            raise ValueError(
                f"No row of {numbering.title} has two candidates of different scores, or a better and a worse answer: "
                "give it some, or pairs."
            )


def _read_one(row: Row, config: DataConfig, how: How) -> RowOfPairs:
    if how.written:
        pairs = read_written_row(row)
    elif DESIRABLE in row:
        pairs = read_single(row)
    else:
        pairing = Pairing(config.pairs_from_candidates, config.win_rate_temperature, how.votes)
        pairs = read_row(with_messages(row, TEXTS), pairing)
    check_answers(pairs, config.train_on)
    return pairs


RESERVED = {
    *("conversation", "messages", "tokenize", "add_generation_prompt", "continue_final_message", "return_dict"),
    *("return_tensors", "chat_template", "padding", "truncation", "max_length"),
}


def template_arguments(record: Mapping[str, Any]) -> dict[str, Any]:
    """What a row gives its chat template: the keys of `chat_template_kwargs`, and `tools` as a list."""
    keywords = _unpacked(record, "chat_template_kwargs", dict, "an object")
    if reserved := RESERVED & (keywords or {}).keys():
        raise ValueError(
            f"has {min(reserved)} in chat_template_kwargs, which rendering decides by itself: leave it out there."
        )
    tools = _unpacked(record, "tools", list, "a list of tools")
    if tools and (keywords or {}).get("tools"):
        raise ValueError("has tools and others in chat_template_kwargs: keep one of them.")
    arguments = (keywords or {}) | ({"tools": [parsed(tool) for tool in tools]} if tools else {})
    check_encodable(arguments)
    return arguments


def _unpacked(record: Mapping[str, Any], name: str, kind: type, what: str) -> Any:
    """Nested values may be stored as text, since Arrow columns have one type, and are absent where that is empty."""
    value = parsed(record.get(name) or None)
    if value is not None and not isinstance(value, kind):
        raise ValueError(f"has {name} of another kind: make it {what}, or {what} as JSON.")
    return value
