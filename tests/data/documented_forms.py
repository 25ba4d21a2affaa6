"""The forms of rows of `docs/data.md`: what each looks like, and what it is read as."""

from __future__ import annotations

import json
from typing import Any, NamedTuple

Row = dict[str, Any]
Texts = tuple[Any, Any, Any]


def user(text: str) -> Row:
    return {"role": "user", "content": text}


def assistant(text: str) -> Row:
    return {"role": "assistant", "content": text}


def system(text: str) -> Row:
    return {"role": "system", "content": text}


ASKED = [user("Is it?")]
SAID: Texts = (ASKED, [assistant("Yes.")], [assistant("No.")])
PLAIN: Texts = ("Is it?", "Yes.", "No.")
INSTRUCTED: Texts = ([system("Be brief."), *ASKED], *SAID[1:])


class Form(NamedTuple):
    """A form that rows have.

    Attributes:
        title: of its section.
        row: one row.
        texts: prompt, chosen and rejected that it is read as; a sentence where it is refused.
        settings: of `data`.
        note: what else there is to say.
        scores: of chosen and rejected, where candidates bring them.
        votes: of chosen and rejected, where scores are read as votes, as with `rewards.heads: dprm`.
        label: of a row of one completion, whether it is desirable; the page names it so.
        unread: columns whose text is left out, as the run says.
    """

    title: str
    row: Row
    texts: Texts | str
    settings: Row = {}  # noqa: RUF012
    note: str = ""
    scores: tuple[float, float] | None = None
    unread: tuple[str, ...] = ()
    label: bool | None = None
    votes: tuple[list[float], list[float]] | None = None


FORMS = [
    Form("Prompt and two answers", {"prompt": "Is it?", "chosen": "Yes.", "rejected": "No."}, PLAIN),
    Form("Conversations", {"prompt": ASKED, "chosen": SAID[1], "rejected": SAID[2]}, SAID),
    Form("A prompt as text, answers as messages", {"prompt": "Is it?", "chosen": SAID[1], "rejected": SAID[2]}, SAID),
    Form(
        "No prompt: text that begins alike",
        {"chosen": "Is it? Yes.", "rejected": "Is it? No."},
        ("Is it?", " Yes.", " No."),
        note="The longest common beginning is the prompt, as long as no word is cut.",
    ),
    Form(
        "No prompt: conversations that begin alike",
        {"chosen": [*ASKED, assistant("Yes.")], "rejected": [*ASKED, assistant("No.")]},
        SAID,
    ),
    Form(
        "Dialogues in Anthropic's HH form",
        {"chosen": "\n\nHuman: Is it?\n\nAssistant: Yes.", "rejected": "\n\nHuman: Is it?\n\nAssistant: No."},
        ("\n\nHuman: Is it?\n\nAssistant:", " Yes.", " No."),
        note=(
            "With `data.as_chat: true` they become their turns. Two dialogues that part before their last turn are cut "
            "where they part; of their further turns the assistant's are trained, and the run says how many there are."
        ),
    ),
    Form(
        "A prompt that both answers repeat",
        {"prompt": "And is it?", "chosen": "And is it? Yes.", "rejected": "And is it? No."},
        ("And is it?", " Yes.", " No."),
        note=(
            "Decided row by row. A prompt of one or two words is not cut off, because both answers to a greeting may "
            "begin with it by themselves."
        ),
    ),
    Form(
        "Two answers and which is better",
        {"prompt": "Is it?", "a": "No.", "b": "Yes.", "winner": "model_b"},
        PLAIN,
        {
            "columns": {"first": "a", "second": "b", "preferred": "winner"},
            "preferred": {"first": "model_a", "second": "model_b", "tie": ["tie", "both bad"]},
        },
        note=(
            "A value that `data.preferred` does not know is refused; ties are left out and counted. Numbers may be "
            "`negative` and `positive`: `{first: negative, second: positive, tie: 0}`."
        ),
    ),
    Form(
        "Candidates with scores",
        {"prompt": "Is it?", "candidates": ["No.", "Yes.", "Hm."], "candidate_scores": [-1.0, 2.0, 0.5]},
        PLAIN,
        note="More on these in [candidates](candidates.md).",
        scores=(2.0, -1.0),
    ),
    Form(
        "Votes on candidates",
        {"prompt": "Is it?", "candidates": ["No.", "Yes.", "Hm."], "candidate_scores": [[2, 1], [4, None, 5], [3]]},
        PLAIN,
        note=(
            "For [distributions over grades](systems/dprm.md): lists of the grades that annotators gave, of any "
            "length. Candidates are compared by their mean. With other heads such lists are [several "
            "rewards](systems/capo.md)."
        ),
        votes=([4, 5], [2, 1]),
    ),
    Form(
        "Votes counted by grade",
        {
            "prompt": "Is it?",
            "chosen": "Yes.",
            "rejected": "No.",
            "score_chosen": {"3": 1, "4": 2},
            "score_rejected": {"1": 3},
        },
        PLAIN,
        note=(
            "The same as the lists `[3, 4, 4]` and `[1, 1, 1]`, in scores of pairs and of candidates. Other heads, "
            "objectives and commands refuse it."
        ),
        votes=([3, 4, 4], [1, 1, 1]),
    ),
    Form(
        "Candidates without scores, beside a pair",
        {"prompt": "Is it?", "chosen": "Yes.", "rejected": "No.", "candidates": ["Hm."]},
        PLAIN,
    ),
    Form(
        "Ranked answers, the best first",
        {"prompt": "Is it?", "ranked": ["Yes.", "Hm.", "No."]},
        PLAIN,
        note="The score of an answer is minus its place.",
        scores=(0.0, -2.0),
    ),
    Form(
        "ShareGPT's messages",
        {
            "conversations": [{"from": "human", "value": "Is it?"}],
            "chosen": {"from": "gpt", "value": "Yes."},
            "rejected": {"from": "gpt", "value": "No."},
        },
        SAID,
        note="`observation` is the answer of a tool, and `function_call` a call as JSON. Answers may be lists too.",
    ),
    Form(
        "Answers of one message",
        {"messages": ASKED, "chosen": assistant("Yes."), "rejected": assistant("No.")},
        SAID,
        note="`conversations` or `messages` is the prompt where there is none and the answers are answers alone.",
    ),
    Form(
        "LLaMA-Factory's Alpaca form",
        {
            "instruction": "Is",
            "input": "it?",
            "system": "Be brief.",
            "history": [["Hello", "Hi"]],
            "chosen": "Yes.",
            "rejected": "No.",
        },
        ([system("Be brief."), user("Hello"), assistant("Hi"), user("Is\nit?")], *SAID[1:]),
        {"columns": {"prompt": "instruction+input"}},
        note=(
            "`a+b` joins two columns by a line end. `system` and `history` (couples of question and answer, or "
            "messages) go in front of the prompt and make the row a conversation."
        ),
    ),
    Form(
        "A system column",
        {"system": "Be brief.", "prompt": "Is it?", "chosen": "Yes.", "rejected": "No."},
        INSTRUCTED,
        note="`data.columns: {system: null}` leaves it out.",
    ),
    Form(
        "Messages as JSON text",
        {name: json.dumps(value) for name, value in zip(("prompt", "chosen", "rejected"), SAID, strict=True)},
        SAID,
        note=(
            "As CSV and SQL have them. A column is read so where every text in it is such JSON; if one is not, all of "
            "them stay text, and the run says how many look like it. `data.json_columns` says it for sure: a list of "
            "columns, or `[]` for data about JSON."
        ),
    ),
    Form(
        "Unpaired rows",
        {"prompt": "Is it?", "completion": "Yes.", "label": True},
        ("Is it?", "Yes.", "Yes."),
        label=True,
        note=(
            "One completion, and whether it is desirable: `true` or `false`, or 1 or 0. `kto`, `bco`, `bco_pair` and "
            "`apo_zero` train on such rows, also beside pairs, in one file or in `data.mix`; those with a forward KL "
            "take desirable ones for [samples of the reference](objectives.md#samples-of-the-reference); other "
            "objectives compare two answers and refuse them, and so do `iwpo run` and `iwpo evaluate`. Two rows of one "
            "prompt need not be joined ([training](training.md#rows-of-one-completion))."
        ),
    ),
    Form(
        "Unpaired rows, as a dialogue",
        {
            "conversations": [{"from": "human", "value": "Is it?"}, {"from": "gpt", "value": "No."}],
            "kto_tag": False,
        },
        (ASKED, SAID[2], SAID[2]),
        label=False,
        note=(
            "As LLaMA-Factory has them: the last message is the completion. `messages` and `label` are read likewise, "
            "and in other forms `data.columns` names `completion`, `label` and `prompt`."
        ),
    ),
    Form(
        "A prompt under another name",
        {"question": "Is it?", "chosen": "Yes.", "rejected": "No."},
        "has no prompt and text in question: name the prompt, as in data.columns {prompt: question}",
        note=(
            "Columns such as `question`, `input`, `instruction` or `context`, and any other whose text reads like a "
            "prompt, are refused so where there is no prompt, unless their text stands in the answers; beside a prompt "
            "they are counted and said."
        ),
    ),
    Form(
        "Who gave the label",
        {"prompt": "Is it?", "chosen": "Yes.", "rejected": "No.", "worker": 17},
        PLAIN,
        {"columns": {"annotator": "worker"}},
        note="For [types of annotators](systems/em.md), who want different things; a text or an integer.",
    ),
]
