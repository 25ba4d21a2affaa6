"""Four small task families with a gold reward for any completion, on levels and scales that differ by family."""

from __future__ import annotations

import re
from abc import ABC, abstractmethod
from collections.abc import Sequence
from random import Random

KINDS = {
    "animal": ["cat", "dog", "cow", "hen", "pig", "fox", "owl", "bat"],
    "fruit": ["fig", "pear", "plum", "lime", "peach", "melon", "grape", "apple"],
    "tool": ["saw", "nail", "drill", "axe", "file", "rake", "spade", "hammer"],
    "garment": ["hat", "coat", "sock", "boot", "glove", "scarf", "shirt", "belt"],
}
KIND_OF = {noun: kind for kind, nouns in KINDS.items() for noun in nouns}
NOUNS = list(KIND_OF)
NAMES = [
    *("Ann", "Ben", "Cora", "Dan", "Eva", "Finn", "Gus", "Hana"),
    *("Ida", "Jon", "Kim", "Lou", "Max", "Nia", "Otto", "Pia"),
]
DAYS = ["Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday", "Sunday"]
REMEDIES = {"broken": "replace", "late": "trace", "lost": "refund", "dirty": "clean", "small": "exchange"}
OPENING, CLOSING = "Of course!", "Thank you."


class Task(ABC):
    """Prompts, completions of any quality, and the gold reward of any text.

    The reward is `level + scale * (4 * quality - 2)` with quality in [0, 1]: mostly how close the words are to the
    right answer, and partly the manner, where some families want courtesy and others want none.

    Attributes:
        name: name of the family, as in the data's `task` column.
        level: reward of a completion of quality 1/2.
        scale: a quarter of the distance between the best and the worst reward.
        wants_courtesy: an opening and a closing phrase raise the quality if true, lower it if false.
    """

    name: str
    level: float
    scale: float
    wants_courtesy: bool

    @abstractmethod
    def new_prompt(self, rng: Random) -> str:
        """A prompt drawn from tens of thousands or more; completions go on from it with a space."""

    @abstractmethod
    def answer(self, prompt: str) -> list[str]:
        """Words of the right answer to a prompt of this family, without courtesy."""

    def complete(self, prompt: str, rng: Random) -> str:
        """A completion whose quality is drawn anew each time, from perfect to poor."""
        skill = rng.random() ** 0.5
        body = _damaged(self.answer(prompt), 1 - skill, rng)
        courtesy = [rng.random() < 0.5, rng.random() < 0.5]
        return self._phrase(body, *courtesy)

    def best(self, prompt: str) -> str:
        """The completion with the highest gold reward."""
        return self._phrase(self.answer(prompt), self.wants_courtesy, self.wants_courtesy)

    def quality(self, prompt: str, completion: str) -> float:
        """Quality in [0, 1] of any text; 0 if it has nothing of the right answer."""
        text = completion.strip()
        opened, closed = text.startswith(OPENING), text.endswith(CLOSING)
        body = text.removeprefix(OPENING).removesuffix(CLOSING).split()
        closeness = similarity(self.answer(prompt), body)
        manner = ((opened == self.wants_courtesy) + (closed == self.wants_courtesy)) / 2
        return closeness * (0.7 + 0.3 * manner)

    def gold_reward(self, prompt: str, completion: str) -> float:
        """Gold reward of any text as a completion of a prompt of this family."""
        return self.level + self.scale * (4 * self.quality(prompt, completion) - 2)

    @staticmethod
    def _phrase(body: Sequence[str], opening: bool, closing: bool) -> str:
        return " " + " ".join([OPENING] * opening + [*body] + [CLOSING] * closing)


class NumberedItems(Task):
    """Number the items of a list, in order."""

    name, level, scale, wants_courtesy = "numbered", 3.0, 0.5, False

    def new_prompt(self, rng: Random) -> str:
        return f"Number these: {' '.join(rng.sample(NOUNS, rng.randint(3, 5)))} :"

    def answer(self, prompt: str) -> list[str]:
        items = prompt.split()[2:-1]
        return [word for i, item in enumerate(items, 1) for word in (str(i), item)]


class Repeated(Task):
    """Say two words several times."""

    name, level, scale, wants_courtesy = "repeated", -2.0, 3.0, False

    def new_prompt(self, rng: Random) -> str:
        return f"{rng.choice(NAMES)} says {' '.join(rng.sample(NOUNS, 2))} {rng.randint(2, 4)} times:"

    def answer(self, prompt: str) -> list[str]:
        *_, first, second, times, _ = prompt.split()
        return [first, second] * int(times)


class Kinds(Task):
    """Say of each item what kind of thing it is."""

    name, level, scale, wants_courtesy = "kinds", 0.0, 1.0, True

    def new_prompt(self, rng: Random) -> str:
        return f"What are these: {' '.join(rng.sample(NOUNS, rng.randint(3, 5)))} ?"

    def answer(self, prompt: str) -> list[str]:
        return [KIND_OF[item] for item in prompt.split()[3:-1]]


class Reply(Task):
    """Answer a complaint by name, with the thing and the remedy that it calls for."""

    name, level, scale, wants_courtesy = "reply", 8.0, 1.5, True

    def new_prompt(self, rng: Random) -> str:
        thing, problem = rng.choice(NOUNS), rng.choice(list(REMEDIES))
        return f"{rng.choice(NAMES)} wrote on {rng.choice(DAYS)}: my {thing} is {problem} . Reply:"

    def answer(self, prompt: str) -> list[str]:
        match = re.fullmatch(r"(\w+) wrote on \w+: my (\w+) is (\w+) \. Reply:", prompt)
        assert match, f"not a prompt of the family {self.name}: {prompt!r}"
        name, thing, problem = match.groups()
        return f"Dear {name} , we will {REMEDIES[problem]} your {thing} .".split()


TASKS: dict[str, Task] = {task.name: task for task in (NumberedItems(), Repeated(), Kinds(), Reply())}


def similarity(expected: Sequence[str], given: Sequence[str]) -> float:
    """1 - (word edit distance) / (length of the longer one): 1 if equal, 0 if nothing agrees."""
    longest = max(len(expected), len(given))
    previous = list(range(len(given) + 1))
    for i, word in enumerate(expected, 1):
        current = [i]
        for j, other in enumerate(given, 1):
            current.append(min(previous[j] + 1, current[-1] + 1, previous[j - 1] + (word != other)))
        previous = current
    return 1 - previous[-1] / longest if longest else 1.0


def _damaged(words: Sequence[str], rate: float, rng: Random) -> list[str]:
    """Each word is dropped, doubled or replaced with probability `rate`, and kept otherwise."""
    kept: list[str] = []
    for word in words:
        if rng.random() >= rate:
            kept.append(word)
        else:
            kept += rng.choice([[], [word, word], [rng.choice(NOUNS)], [rng.choice(words)]])
    return kept or [rng.choice(NOUNS)]
