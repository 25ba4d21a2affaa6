"""Columns whose texts are messages as JSON, as CSV and SQL keep them: decided by all rows of a source, not by one.

An answer may be JSON by itself, as in data about JSON. So a column is read as messages while each of its texts is some;
at the first that is not, the source is read anew with that column as text. Contents that are lists of parts are decided
in the same way, by column and role. A column in which fewer texts are plain than are messages holds messages, and the
plain ones are mistakes: the first of them is refused. Where they are as many, the other columns decide.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Collection, Mapping
from typing import Any, Literal, NamedTuple, TypeVar

from iwpo_fast.data.strict_json import RepeatedKey, parsed

Read = TypeVar("Read")
JsonColumns = list[str] | Literal["auto"]

MEDIA = ("image", "video", "audio", "file")
"""Kinds of parts that are no text."""

DIALOGUES = ("conversations", "messages")
LISTS = ("candidates", "ranked")
READ = ("prompt", "chosen", "rejected", "first", "second", "completion")
"""Columns whose text may be messages or not; that of whole conversations is nothing else."""
KNOWN = (*READ, *DIALOGUES, *LISTS)


class Where(NamedTuple):
    """Texts that are alike: those of a column, or the contents of one role's messages in it."""

    column: str
    role: str = ""

    @property
    def words(self) -> str:
        return f"the content of the {self.role}'s messages in {self.column}" if self.role else self.column


class Undecided(Exception):
    """Texts at `where` were read as JSON, and one is none."""

    def __init__(self, where: Where) -> None:
        super().__init__(where.words)
        self.where = where


class JsonText:
    """Puts messages in the place of JSON text, row by row.

    Args:
        setting: `DataConfig.json_columns`.
        as_text: where texts are known to be no JSON.
        refused: where a text that is no JSON is an error.

    Raises:
        ValueError: the setting names a column that holds no messages.
    """

    def __init__(self, setting: JsonColumns, as_text: Collection[Where] = (), refused: Collection[Where] = ()) -> None:
        self._named = None if setting == "auto" else frozenset(setting)
        if unknown := (self._named or frozenset()) - set(KNOWN):
            raise ValueError(f"data.json_columns names {min(unknown)!r}: use auto, or some of {', '.join(KNOWN)}.")
        self._as_text = set(as_text)
        self._refused = set(refused)
        self._plain: Counter[Where] = Counter()
        self._read: Counter[Where] = Counter()
        self._kept: Counter[Where] = Counter()

    @property
    def is_automatic(self) -> bool:
        return self._named is None

    @property
    def counts(self) -> dict[str, int]:
        """What was found in how many texts, in words."""
        read = {f"{where.words}: JSON text, read as what it stands for": count for where, count in self._read.items()}
        kept = {
            f"{where.words}: looks like JSON of messages and stays text (data.json_columns)": count
            for where, count in self._kept.items()
        }
        return read | kept

    @property
    def mistaken(self) -> set[Where]:
        """Columns read as text in which most texts look like messages, or half of them beside columns of messages."""
        as_many = 1 if any(not where.role for where in self._read) else 0
        of_columns = {where: count + as_many for where, count in self._kept.items() if not where.role}
        return {where for where, count in of_columns.items() if self.is_automatic and self._plain[where] < count}

    def __call__(self, record: Mapping[str, Any]) -> dict[str, Any]:
        """The row with the messages that its columns hold.

        Raises:
            Undecided: a column is to be read as text.
            ValueError: `data.json_columns` names a column, and its text is no JSON. The message goes on from "row 1".
        """
        row = dict(record)
        for name in READ:
            if row.get(name):
                row[name] = self._messages(name, row[name])
        for name in DIALOGUES:
            if row.get(name):
                row[name] = self._contents(name, self._dialogue(name, row[name]))
        for name in LISTS:
            if row.get(name):
                values = _list_in(row[name])
                row[name] = [self._messages(name, one) for one in values] if isinstance(values, list) else values
        return row

    def _dialogue(self, name: str, value: Any) -> Any:
        found = dialogue_in(value)
        if isinstance(found, str) and name in (self._named or ()):
            raise _no_json(name)
        return found

    def _messages(self, name: str, value: Any) -> Any:
        if isinstance(value, str):
            value = self._decided(Where(name), value, messages_in)
        return self._contents(name, value)

    def _contents(self, name: str, value: Any) -> Any:
        """Messages whose contents are what their JSON text stands for."""
        if isinstance(value, list):
            return [self._with_content(name, _object_in(one)) for one in value]
        return self._with_content(name, value) if isinstance(value, dict) else value

    def _with_content(self, name: str, message: Any) -> Any:
        if not isinstance(message, dict):
            return message
        key = "content" if "role" in message else "value"
        content = message.get(key)
        if not isinstance(content, str) or not content:
            return message
        where = Where(name, str(message.get("role", message.get("from"))))
        found = self._decided(where, content, _parts_in)
        return message if found is content else message | {key: found}

    def _decided(self, where: Where, text: str, find: Callable[[str], Any]) -> Any:
        """The text, or what it stands for.

        Args:
            find: gives what that is; an error if it is a broken one, None if there is only text.
        """
        if self._named is not None and where.column not in self._named:
            return text
        found = find(text)
        if where in self._as_text:
            self._count(where, text, found)
            return text
        if isinstance(found, ValueError):
            raise found
        if found is not None:
            self._read[where] += 1
            return found
        if self._named is not None and not where.role:
            raise _no_json(where.column)
        if text.strip():
            if where in self._refused:
                raise _unlike_the_others(where.column)
            if where in self._read:
                raise Undecided(where)
            self._as_text.add(where)
            self._count(where, text, found)
        return text

    def _count(self, where: Where, text: str, found: Any) -> None:
        """Count a text that stays one, by whether it looks like messages."""
        if text.strip():
            (self._plain if found is None else self._kept).update([where])


def _no_json(column: str) -> ValueError:
    return ValueError(
        f"has a text in {column} that is no JSON of messages, as data.json_columns says it is: correct the one or the "
        "other."
    )


def _unlike_the_others(column: str) -> ValueError:
    return ValueError(
        f"has a text in {column} that is no JSON of messages, as at least half of that column's texts are: correct "
        "it, or set data.json_columns to [] if all are to stay text."
    )


def decided(setting: JsonColumns, read: Callable[[JsonText], Read]) -> Read:
    """What `read` returns, which goes through all rows; once more for each column that looked like JSON and is text."""
    as_text: set[Where] = set()
    while True:
        texts = JsonText(setting, as_text)
        try:
            done = read(texts)
        except Undecided as undecided:
            as_text.add(undecided.where)
            continue
        mistaken = texts.mistaken
        return read(JsonText(setting, as_text - mistaken, mistaken)) if mistaken else done


def messages_in(text: str) -> Any:
    """Messages, or one, that stand as JSON or as Python source, such as in CSV; None in any other text.

    An error in place of messages that have a key twice.
    """
    if text.lstrip()[:1] not in ("[", "{") or ("role" not in text and "from" not in text):
        return None
    try:
        value = parsed(text)
        turns = [value] if isinstance(value, dict) else value
        are_messages = isinstance(turns, list) and turns and all(map(speaks, map(_object_in, turns)))
    except RepeatedKey as error:
        return error
    return value if are_messages else None


def dialogue_in(value: Any) -> Any:
    """A conversation that may stand as text; any other value as it is."""
    found = messages_in(value) if isinstance(value, str) else None
    if isinstance(found, ValueError):
        raise found
    return value if found is None else found


def speaks(turn: Any) -> bool:
    """Whether it is a message, in our form or in ShareGPT's."""
    if not isinstance(turn, dict):
        return False
    return ("role" in turn and ("content" in turn or "tool_calls" in turn)) or ("from" in turn and "value" in turn)


def _object_in(value: Any) -> Any:
    """A message that stands as text in a list of them; any other value as it is."""
    is_object = isinstance(value, str) and value[:1] == "{" and ("role" in value or "from" in value)
    return parsed(value) if is_object else value


def _list_in(value: Any) -> Any:
    """A list that stands as text, such as in CSV; any other value as it is."""
    found = parsed(value) if isinstance(value, str) and value.lstrip().startswith("[") else value
    return found if isinstance(found, list) else value


def _parts_in(content: str) -> Any:
    """The parts that a content stands for; None in any other text, an error where one has a key twice."""
    if not content.startswith('[{"') or '"type"' not in content:
        return None
    try:
        parts = parsed(content)
    except RepeatedKey as error:
        return error
    are_parts = isinstance(parts, list) and all(isinstance(part, dict) and _is_part(part) for part in parts)
    return parts if are_parts else None


def _is_part(part: Mapping[str, Any]) -> bool:
    kind = part.get("type")
    if not isinstance(kind, str):
        return False
    return any(medium in kind for medium in MEDIA) or (kind in part and isinstance(part[kind], str | None))
