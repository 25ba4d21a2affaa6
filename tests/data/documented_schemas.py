"""The public data sets of `docs/data.md`: a row of each, and what it is read as."""

from __future__ import annotations

from documented_forms import ASKED, FORMS, INSTRUCTED, PLAIN, SAID, Form, Row, assistant

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
