"""The rows of `docs/data.md`: what each form and each public schema looks like, and what it is read as.

`python tests/data/documented_forms.py docs/data.md`, a part of `make docs`, writes them into the page;
`test_documented_forms.py` reads them and compares the page.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any, NamedTuple

import yaml

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


NAMES = ("prompt", "chosen", "rejected")


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

SIGNED = {"first": "negative", "second": "positive", "tie": 0}
ARENA = {"first": "model_a", "second": "model_b", "tie": ["tie", "tie (bothbad)"]}
CHATS = {"chosen": [*ASKED, assistant("Yes.")], "rejected": [*ASKED, assistant("No.")]}
SIDES = {"chosen": "Yes.", "rejected": "No."}
NO_CHOSEN = "has no chosen: add it, or name the column that holds it in data.columns"


def pair(first: str, second: str, preferred: str, **columns: str) -> Row:
    return {"first": first, "second": second, "preferred": preferred} | columns


def rated(response: str, score: float) -> Row:
    annotations = {"helpfulness": {"Rating": str(score), "Rationale": "."}}
    return {"response": response, "annotations": annotations, "fine-grained_score": score, "overall_score": 2 * score}


SCHEMAS = [
    Form("Anthropic/hh-rlhf", FORMS[5].row, FORMS[5].texts),
    Form(
        "HuggingFaceH4/ultrafeedback_binarized",
        {"prompt": "Is it?", "prompt_id": "3a", "messages": CHATS["chosen"], "score_chosen": 8.0, "score_rejected": 2.0}
        | CHATS,
        SAID,
        note="`data.split: train_prefs`",
    ),
    Form(
        "openbmb/UltraFeedback",
        {
            "source": "evol",
            "instruction": "Is it?",
            "models": ["m", "n"],
            "completions": [rated("No.", 1.0), rated("Yes.", 4.0)],
            "correct_answers": ["None"],
        },
        PLAIN,
        scores=(4.0, 1.0),
        unread=("completions beside its responses", "source", "models", "correct_answers"),
    ),
    Form(
        "argilla/ultrafeedback-binarized-preferences-cleaned",
        {"source": "evol", "prompt": "Is it?", "chosen-rating": 5.0, "rejected-rating": 3.0, "chosen-model": "m"}
        | CHATS,
        SAID,
        {"columns": {"score_chosen": "chosen-rating", "score_rejected": "rejected-rating"}},
        "the setting is for the scores alone",
        (5.0, 3.0),
        unread=("source", "chosen-model"),
    ),
    Form(
        "princeton-nlp/llama3-ultrafeedback",
        {
            "prompt_id": "3a",
            "prompt": "Is it?",
            "all_generated_responses": ["Yes.", "No.", "Hm."],
            "all_rm_scores": [0.2, 0.1, 0.15],
        }
        | CHATS,
        SAID,
        scores=(0.2, 0.1),
    ),
    Form(
        "berkeley-nest/Nectar",
        {
            "prompt": "\n\nHuman: Is it?\n\nAssistant: ",
            "answers": [
                {"answer": "No.", "model": "gpt-4", "rank": 2.0},
                {"answer": "Yes.", "model": "llama-7b", "rank": 1.0},
            ],
            "turns": 1,
        },
        ("\n\nHuman: Is it?\n\nAssistant:", " Yes.", " No."),
        scores=(-1.0, -2.0),
        unread=("answers beside its responses",),
    ),
    Form(
        "nvidia/HelpSteer2",
        {"prompt": "Is it?", "response": "Yes.", "helpfulness": 4},
        NO_CHOSEN,
        note="two rows make a pair: join them first",
    ),
    Form(
        "nvidia/HelpSteer2, preference",
        {"split": "train", "prompt": "Is it?", "response_1": "Yes.", "response_2": "No.", "preference_strength": -2},
        PLAIN,
        {"columns": pair("response_1", "response_2", "preference_strength"), "preferred": SIGNED},
        unread=("split",),
    ),
    Form(
        "nvidia/HelpSteer3",
        {"domain": "general", "context": ASKED, "response1": "No.", "response2": "Yes.", "overall_preference": 3},
        SAID,
        {"columns": pair("response1", "response2", "overall_preference", prompt="context"), "preferred": SIGNED},
        unread=("domain",),
    ),
    Form(
        "stanfordnlp/SHP",
        {"post_id": "p", "history": "Is it?", "human_ref_A": "No.", "human_ref_B": "Yes.", "labels": 0},
        PLAIN,
        {
            "columns": pair("human_ref_A", "human_ref_B", "labels", prompt="history"),
            "preferred": {"first": 1, "second": 0},
        },
        unread=("post_id",),
    ),
    Form(
        "PKU-Alignment/PKU-SafeRLHF",
        {
            "prompt": "Is it?",
            "response_0": "No.",
            "response_1": "Yes.",
            "is_response_0_safe": True,
            "better_response_id": 1,
            "safer_response_id": 0,
        },
        PLAIN,
        {"columns": pair("response_0", "response_1", "better_response_id"), "preferred": {"first": 0, "second": 1}},
        "`safer_response_id` for harmlessness",
    ),
    Form(
        "lmsys/chatbot_arena_conversations",
        {
            "question_id": "q",
            "model_a": "m",
            "model_b": "n",
            "winner": "model_b",
            "conversation_a": CHATS["rejected"],
            "conversation_b": CHATS["chosen"],
            "turn": 1,
        },
        SAID,
        {"columns": pair("conversation_a", "conversation_b", "winner"), "preferred": ARENA},
        "conversations of several turns are cut where they part",
        unread=("question_id", "model_a", "model_b"),
    ),
    Form(
        "lmarena-ai/arena-human-preference-100k",
        {
            "question_id": "q",
            "winner": "model_a",
            "conversation_a": CHATS["chosen"],
            "conversation_b": CHATS["rejected"],
            "language": "English",
        },
        SAID,
        {"columns": pair("conversation_a", "conversation_b", "winner"), "preferred": ARENA},
        unread=("question_id", "language"),
    ),
    Form(
        "lmsys/lmsys-arena-human-preference-55k",
        {
            "id": 1,
            "prompt": '["Is it?"]',
            "response_a": '["Yes."]',
            "response_b": '["No."]',
            "winner_model_a": 1,
            "winner_model_b": 0,
            "winner_tie": 0,
        },
        "has lists as JSON text",
        {"columns": pair("response_a", "response_b", "winner_model_a"), "preferred": {"first": 1, "second": 0}},
        "lists of turns as text, and three columns for the winner",
    ),
    Form(
        "openai/summarize_from_feedback",
        {"info": {"id": "i", "post": "Is it?"}, "summaries": [{"text": "Yes."}, {"text": "No."}], "choice": 0},
        NO_CHOSEN,
    ),
    Form(
        "openai/webgpt_comparisons",
        {
            "question": {"id": "i", "full_text": "Is it?"},
            "answer_0": "Yes.",
            "score_0": 1.0,
            "answer_1": "No.",
            "score_1": -1.0,
        },
        "has a prompt of type dict",
        {
            "columns": pair("answer_0", "answer_1", "score_0", prompt="question"),
            "preferred": {"first": "positive", "second": "negative", "tie": 0},
        },
        "the question is no text",
    ),
    Form(
        "Intel/orca_dpo_pairs",
        {"system": "Be brief.", "question": "Is it?"} | SIDES,
        INSTRUCTED,
        {"columns": {"prompt": "question"}},
    ),
    Form(
        "argilla/distilabel-intel-orca-dpo-pairs",
        {"system": "Be brief.", "input": "Is it?", "generations": ["Yes.", "No."], "status": "unchanged"} | SIDES,
        INSTRUCTED,
        {"columns": {"prompt": "input"}},
        unread=("status",),
    ),
    Form(
        "argilla/dpo-mix-7k",
        {"dataset": "d", "chosen_rating": 5.0, "rejected_rating": 4.0} | CHATS,
        SAID,
        unread=("dataset",),
    ),
    Form(
        "argilla/distilabel-capybara-dpo-7k-binarized",
        {
            "source": "evol",
            "conversation": [{"input": "Is it?", "output": "Yes."}],
            "rating_chosen": 5,
            "rating_rejected": 1,
        }
        | CHATS,
        SAID,
        unread=("source",),
    ),
    Form(
        "mlabonne/orpo-dpo-mix-40k",
        {"source": "evol", "prompt": "Is it?", "question": "Is it?"} | CHATS,
        SAID,
        unread=("source",),
    ),
    Form(
        "jondurbin/truthy-dpo-v0.1",
        {"id": "a17", "source": "evol", "system": "Be brief.", "prompt": "Is it?"} | SIDES,
        INSTRUCTED,
        unread=("id", "source"),
    ),
    Form("unalignment/toxic-dpo-v0.2", {"prompt": "Is it?"} | SIDES, PLAIN),
    Form(
        "allenai/llama-3.1-tulu-3-8b-preference-mixture",
        {"id": "a17", "source": "evol", "prompt": "Is it?"} | CHATS,
        SAID,
        unread=("id", "source"),
    ),
    Form(
        "hendrydong/preference_700K",
        {"chosen_score": 5.0, "rejected_score": 1.0} | CHATS,
        SAID,
        {"columns": {"score_chosen": "chosen_score", "score_rejected": "rejected_score"}},
        "the setting is for the scores alone",
        (5.0, 1.0),
    ),
    Form("Skywork/Skywork-Reward-Preference-80K-v0.2", {"source": "evol"} | CHATS, SAID, unread=("source",)),
    Form(
        "lvwerra/stack-exchange-paired",
        {"qid": 1, "question": "Is it?", "response_j": "Yes.", "response_k": "No."},
        PLAIN,
        {"columns": {"prompt": "question", "chosen": "response_j", "rejected": "response_k"}},
    ),
    Form(
        "HuggingFaceH4/stack-exchange-preferences",
        {"qid": 1, "question": "Is it?", "answers": [{"text": "Yes.", "pm_score": 2}, {"text": "No.", "pm_score": 0}]},
        NO_CHOSEN,
        note="write `candidates` and `candidate_scores`",
    ),
    Form(
        "openbmb/UltraInteract_pair",
        {"task": "Logic", "trajectory": [{"from": "user", "value": "Is it?"}]} | SIDES,
        SAID,
        {"columns": {"conversations": "trajectory"}},
        unread=("task",),
    ),
    Form(
        "OpenAssistant/oasst1",
        {"message_id": "m", "parent_id": None, "text": "Is it?", "role": "prompter", "rank": None},
        NO_CHOSEN,
        note="a tree of messages",
    ),
    Form(
        "trl-lib/kto-mix-14k",
        {"prompt": ASKED, "completion": SAID[1], "label": True},
        (ASKED, SAID[1], SAID[1]),
        label=True,
        note="for `kto` and `bco`",
    ),
    Form(
        "llamafactory/DPO-En-Zh-20k (ShareGPT)",
        {
            "conversations": [{"from": "human", "value": "Is it?"}],
            "chosen": {"from": "gpt", "value": "Yes."},
            "rejected": {"from": "gpt", "value": "No."},
        },
        SAID,
    ),
    Form(
        "LLaMA-Factory, Alpaca",
        {"instruction": "Is", "input": "it?"} | SIDES,
        ("Is\nit?", "Yes.", "No."),
        {"columns": {"prompt": "instruction+input"}},
    ),
    Form(
        "axolotl, chat_template.default",
        {"messages": ASKED, "chosen": assistant("Yes."), "rejected": assistant("No.")},
        SAID,
    ),
    Form(
        "axolotl, chatml.intel",
        {"system": "Be brief.", "question": "Is it?"} | SIDES,
        INSTRUCTED,
        {"columns": {"prompt": "question"}},
    ),
    Form(
        "axolotl, chatml.argilla",
        {"instruction": "Is it?", "chosen_response": "Yes.", "rejected_response": "No."},
        PLAIN,
        {"columns": {"prompt": "instruction", "chosen": "chosen_response", "rejected": "rejected_response"}},
    ),
]


def _lines(form: Form) -> list[str]:
    """A section of the page: the row, the settings, and what it becomes."""
    settings = [f"data: {_flow(form.settings)}"] if form.settings else []
    settings += ["rewards: {heads: dprm}"] if form.votes else []
    if isinstance(form.texts, str):
        result = [f"refused: {form.texts}"]
    else:
        names = NAMES if form.label is None else ("prompt", "desirable" if form.label else "undesirable")
        result = [json.dumps(dict(zip(names, form.texts, strict=form.label is None)))]
    block = [json.dumps(form.row), *settings, f"→ {result[0]}"]
    return [f"### {form.title}", "", "```text", *block, "```", *(["", form.note] if form.note else []), ""]


def _flow(value: Any) -> str:
    return yaml.safe_dump(value, default_flow_style=True, sort_keys=False, width=10_000).strip()


def _cells(form: Form) -> str:
    columns = ", ".join(f"`{name}`" for name in form.row)
    read = f"refused: {form.texts}" if isinstance(form.texts, str) else "read"
    settings = f"`{_flow(form.settings)}`" if form.settings else "–"
    unread = [f"said to be left out: {', '.join(f'`{name}`' for name in form.unread)}"] if form.unread else []
    cells = [form.title, columns, read, settings, "; ".join([form.note, *unread] if form.note else unread)]
    return "| " + " | ".join(cell.replace("|", r"\|") for cell in cells) + " |"


def parts() -> dict[str, str]:
    """The generated parts of the page, by the name of their mark."""
    head = ["| data set | columns | | settings of `data` | |", "|---|---|---|---|---|"]
    return {
        "forms": "\n".join(line for form in FORMS for line in _lines(form)),
        "schemas": "\n".join([*head, *map(_cells, SCHEMAS)]) + "\n",
    }


def with_parts(page: str) -> str:
    """The page with its generated parts anew, each between its marks."""
    for name, text in parts().items():
        begin, end = f"<!-- {name}: generated -->\n", f"<!-- end of {name} -->"
        before, rest = page.split(begin)
        page = f"{before}{begin}\n{text}\n{end}{rest.split(end)[1]}"
    return page


if __name__ == "__main__":
    path = Path(sys.argv[1])
    path.write_text(with_parts(path.read_text(encoding="utf-8")), encoding="utf-8")
