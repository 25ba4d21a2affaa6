"""Candidates in rows: their forms, the pairs that are made of them, their tokens, and what is refused."""

from __future__ import annotations

import importlib
import json
import math
from dataclasses import asdict

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from iwpo_fast.config import DataConfig
from iwpo_fast.data import read_rows, tokenise
from iwpo_fast.data import tokenise_candidates as module
from iwpo_fast.data.rows import Rows, Text
from iwpo_fast.data.unique import Responses

PROMPT = "what is the colour of the sky today\n"
PAIR = {"prompt": PROMPT, "chosen": "the sky is blue", "rejected": "green"}
FOUR = ["the sky", "blue", "green", "the grass is green"]
SCORED = {"prompt": PROMPT, "candidates": FOUR, "candidate_scores": [0.5, 2.0, -1.0, 1.0]}


def read(config: DataConfig) -> Rows:
    return read_rows(config)[0]


def pairs_of(rows: Rows) -> list[tuple[Text, Text]]:
    return list(zip(rows.chosen, rows.rejected, strict=True))


def said(text: str) -> list[dict[str, str]]:
    return [{"role": "assistant", "content": text}]


def asked(text: str) -> list[dict[str, str]]:
    return [{"role": "user", "content": text}]


def test_candidates_beside_a_pair_come_along_each_once_and_what_equals_the_pair_is_the_same_response(write) -> None:
    row = PAIR | {
        "candidates": ["green", "blue", "the sky is blue", "blue", "", None],
        "candidate_scores": [1, 2, 3, 4, 5, 6],
    }
    rows = read(write([row, PAIR | {"rejected": "grass"}]))
    assert pairs_of(rows) == [("the sky is blue", "green"), ("the sky is blue", "grass")]
    assert (rows.candidates.texts, rows.candidates.row.tolist()) == (["blue"], [0])
    assert rows.candidates.scores.tolist() == [3.0]  # the mean of both times that it is there
    assert rows.columns["score_chosen"][0] == 3.0 and rows.columns["score_rejected"][0] == 1.0
    assert math.isnan(rows.columns["score_chosen"][1])
    assert rows.candidates.counts == {"read": 6, "in_pairs": 0, "kept": 1, "dropped_duplicate": 3, "dropped_empty": 2}


def test_scores_that_the_row_gives_its_pair_go_before_those_of_its_candidates(write) -> None:
    row = PAIR | {"candidates": ["green"], "scores": [7], "score_chosen": 1.0, "score_rejected": None}
    columns = read(write([row])).columns
    assert (columns["score_chosen"].tolist(), columns["score_rejected"].tolist()) == ([1.0], [7.0])


def test_plain_text_becomes_a_conversation_where_it_is_asked_for(write) -> None:
    ultrafeedback = {
        "instruction": PROMPT,
        "completions": [{"response": text, "overall_score": score} for text, score in zip(FOUR, range(4), strict=True)],
    }
    for row, chosen, rejected, others in (
        (PAIR, "the sky is blue", "green", None),
        (SCORED, "blue", "green", ["the sky", "the grass is green"]),
        (ultrafeedback, "the grass is green", "the sky", ["blue", "green"]),
        (PAIR | {"candidates": FOUR}, "the sky is blue", "green", ["the sky", "blue", "the grass is green"]),
    ):
        rows = read(write([row], as_chat=True))
        assert (rows.prompt, pairs_of(rows)) == ([asked(PROMPT)], [(said(chosen), said(rejected))])
        assert (rows.candidates and rows.candidates.texts) == (others and [said(text) for text in others])
        assert rows.conversational


def test_held_out_rows_become_conversations_too(write) -> None:
    rows, held_out = read_rows(
        write([PAIR | {"prompt": f"{PROMPT} {i}"} for i in range(20)], as_chat=True, eval_fraction=0.3)
    )
    assert held_out is not None and rows.conversational and held_out.conversational


def test_conversations_are_not_made_of_conversations(write) -> None:
    row = {"prompt": asked(PROMPT), "chosen": said("blue"), "rejected": said("green")}
    with pytest.raises(ValueError, match=r"row 1 is a conversation already: leave data\.as_chat out\."):
        read(write([row], as_chat=True))


def test_rows_without_candidates_have_none_and_other_columns_of_these_names_mean_nothing(write) -> None:
    strange = {"scores": [1, 2], "answers": ["a", "b"], "completions": "x", "instruction": "y", "all_rm_scores": 3}
    rows = read(write([PAIR | strange]))
    assert rows.candidates is None
    assert (rows.prompt, pairs_of(rows), rows.columns) == ([PROMPT], [("the sky is blue", "green")], {})


def test_scored_candidates_make_the_pair_of_the_best_and_the_worst(write) -> None:
    rows = read(write([SCORED]))
    assert pairs_of(rows) == [("blue", "green")]
    assert (rows.columns["score_chosen"].tolist(), rows.columns["score_rejected"].tolist()) == ([2.0], [-1.0])
    assert rows.candidates.texts == ["the sky", "the grass is green"]
    assert rows.candidates.scores.tolist() == [0.5, 1.0]
    assert rows.candidates.counts["in_pairs"] == 2


def test_or_all_pairs_of_different_score_with_candidates_of_no_pair_at_the_first_of_them(write) -> None:
    scores = [0.5, 2.0, 0.5, None]
    other = SCORED | {"prompt": "other\n", "candidate_scores": [1, 1, 1, 0]}
    rows = read(write([SCORED | {"candidate_scores": scores}, other], pairs_from_candidates="all"))
    assert pairs_of(rows) == [("blue", "the sky"), ("blue", "green"), *((text, FOUR[3]) for text in FOUR[:3])]
    assert rows.numbers.tolist() == [1, 1, 2, 2, 2]
    assert (rows.candidates.texts, rows.candidates.row.tolist()) == ([FOUR[3]], [0])
    assert rows.candidates.counts["in_pairs"] == 7


def test_rows_of_one_score_make_no_pair_and_are_counted(write, tokenizer, tmp_path) -> None:
    config = write([SCORED, SCORED | {"candidate_scores": [1, 1, 1, 1]}, SCORED | {"candidates": ["a"] * 4}])
    rows = read(config)
    assert (len(rows), rows.unpaired) == (1, 2)
    _, ledger = tokenise(rows, tokenizer, config)
    assert ledger.rows_read == ledger.kept + sum(ledger.dropped.values()) == 3
    assert any("2 without a better and a worse response" in line for line in ledger.lines())
    ledger.save(tmp_path / "ledger.json")
    rare = (
        "prompts_cut_away",
        "unread",
        "notes",
        "plain_for_chat",
        "seams",
        "left_out",
        "with_context",
        "desirable",
        "undesirable",
    )
    saved = json.loads((tmp_path / "ledger.json").read_text())
    assert saved == {name: value for name, value in asdict(ledger).items() if name not in rare}


ULTRAFEEDBACK = {
    "instruction": PROMPT,
    "completions": [
        {"response": "blue", "overall_score": 1.0, "fine-grained_score": 4.5},
        {"response": "green", "overall_score": 10.0, "fine-grained_score": 1.25},
        {"response": "grass", "overall_score": 3.0},
        {
            "response": "sky",
            "annotations": {"honesty": {"Rating": "2"}, "helpfulness": {"Rating": "N/A"}, "x": {"Rating": "5"}},
        },
        {"response": "is", "annotations": None},
    ],
}
SIMPO = {
    "prompt": PROMPT,
    "all_generated_responses": ["blue", "green", "grass"],
    "all_rm_scores": [0.3, 0.1, 0.2],
    "chosen": asked(PROMPT) + said("blue"),
    "rejected": asked(PROMPT) + said("green"),
}
NECTAR = {
    "prompt": f"\n\nHuman: {PROMPT}\n\nAssistant: ",
    "answers": [
        {"answer": text, "model": "m", "rank": rank} for text, rank in (("green", 3.0), ("blue", 1.0), ("sky", 2.0))
    ],
}


def test_ultrafeedback_is_read_by_its_fine_grained_score_else_the_overall_one_else_the_ratings(write) -> None:
    rows = read(write([ULTRAFEEDBACK]))
    assert (rows.prompt, pairs_of(rows)) == ([PROMPT], [("blue", "green")])
    assert rows.candidates.texts == ["grass", "sky", "is"]
    assert rows.candidates.scores.tolist()[:2] == [3.0, 3.5] and math.isnan(rows.candidates.scores[2])


def test_simpos_responses_join_the_pair_as_messages_and_bring_its_scores(write) -> None:
    rows = read(write([SIMPO]))
    assert (rows.prompt, pairs_of(rows)) == ([asked(PROMPT)], [(said("blue"), said("green"))])
    assert rows.candidates.texts == [said("grass")]
    assert rows.columns["score_chosen"].tolist() == [0.3]


def test_nectars_first_rank_is_the_best_and_the_space_belongs_to_the_answer(write, tokenizer) -> None:
    config = write([NECTAR])
    rows = read(config)
    assert (rows.prompt, pairs_of(rows)) == ([NECTAR["prompt"][:-1]], [(" blue", " green")])
    assert (rows.candidates.texts, rows.candidates.scores.tolist()) == ([" sky"], [-2.0])
    pairs, _ = tokenise(rows, tokenizer, config)
    assert tokenizer.decode(pairs.candidates.completions[0]) == " sky</s>"


@pytest.mark.parametrize(
    "row", [ULTRAFEEDBACK, SIMPO, NECTAR, SCORED], ids=["ultrafeedback", "simpo", "nectar", "ours"]
)
def test_parquet_and_saved_data_sets_hold_what_json_lines_do(write, tmp_path, row) -> None:
    expected = read(write([row]))
    datasets = pytest.importorskip("datasets")
    table = pa.Table.from_pylist([row])
    pq.write_table(table, tmp_path / "rows.parquet")
    datasets.Dataset(table).save_to_disk(tmp_path / "saved")
    for place in ("rows.parquet", "saved"):
        found = read(DataConfig(path=str(tmp_path / place), eval_fraction=0.0))
        assert (found.prompt, pairs_of(found)) == (expected.prompt, pairs_of(expected))
        assert found.candidates.texts == expected.candidates.texts
        assert np.array_equal(found.candidates.scores, expected.candidates.scores, equal_nan=True)


def test_columns_of_other_names_hold_candidates_too(write) -> None:
    row = {"question": PROMPT, "outputs": ULTRAFEEDBACK["completions"][:2], "marks": [1, 2]}
    columns = {"prompt": "question", "candidates": "outputs", "candidate_scores": "marks"}
    assert pairs_of(read(write([row], columns=columns))) == [("green", "blue")]


@pytest.mark.parametrize("prompt", [PROMPT, asked(PROMPT)])
@pytest.mark.parametrize("whole", [True, False])
def test_candidates_as_messages_follow_their_prompt_whether_they_repeat_it_or_not(write, prompt, whole) -> None:
    before = asked(PROMPT) if whole else []
    rows = read(write([SCORED | {"prompt": prompt, "candidates": [before + said(text) for text in FOUR]}]))
    assert rows.prompt == [asked(PROMPT)]
    assert pairs_of(rows) == [(said("blue"), said("green"))]
    assert rows.candidates.texts == [said(FOUR[0]), said(FOUR[3])]


def test_a_prompt_that_all_pairs_repeat_is_cut_off_candidates_too(write) -> None:
    row = {name: PROMPT + text for name, text in PAIR.items() if name != "prompt"} | {"prompt": PROMPT}
    rows = read(write([row | {"candidates": [PROMPT + "blue", PROMPT + "green"]}]))
    assert (pairs_of(rows), rows.candidates.texts) == ([("the sky is blue", "green")], ["blue"])


def test_candidates_stay_with_their_prompts_where_some_are_held_out(write) -> None:
    rows = [SCORED | {"prompt": f"say {i}\n", "candidates": [f"{i} {text}" for text in FOUR]} for i in range(40)]
    train, held_out = read_rows(write(rows, eval_fraction=0.3))
    assert len(train) + len(held_out) == 40 and len(held_out) > 3
    for part in (train, held_out):
        assert len(part.candidates) == 2 * len(part)
        for text, row in zip(part.candidates.texts, part.candidates.row, strict=True):
            assert part.prompt[row] == f"say {text.split()[0]}\n"
        assert part.candidates.counts["read"] == 4 * len(part)


REFUSED = [
    (SCORED | {"candidates": ["a"], "candidate_scores": [1]}, "row 1 has 1 candidates and neither chosen nor rejected"),
    (SCORED | {"candidates": []}, "has 0 candidates and 4 scores of them"),
    (SCORED | {"candidate_scores": [1, 2]}, "has 4 candidates and 2 scores of them: give one score per candidate"),
    (SCORED | {"candidate_scores": [1, 2, math.nan, 0]}, "row 1 has the candidate score nan: make it a finite number"),
    (SCORED | {"candidate_scores": [1, 2, "x", 0]}, "row 1 has the candidate score 'x': make it a number"),
    (SCORED | {"candidate_scores": 3}, "has candidate scores of type int: make them a list"),
    (SCORED | {"candidate_scores": None}, "without scores and neither chosen nor rejected, so nothing says which"),
    (SCORED | {"candidates": "text"}, "has candidates of type str: make them a list of responses"),
    (SCORED | {"candidates": [1, 2, 3, 4]}, "has a candidate of type int"),
    (SCORED | {"candidates": [*FOUR[:3], said("x")]}, "has a prompt as text and a candidate as messages"),
    (SCORED | {"candidates": [[{"content": "x"}]] * 4}, "has a message without a role in candidates"),
    (SCORED | {"candidates": [asked("no") + said(text) for text in FOUR]}, "has a prompt that is none of the messages"),
    (SCORED | {"candidates": ["\ud800", *FOUR[1:]]}, "has half a surrogate pair"),
    (SCORED | {"prompt": None}, "has candidates and no prompt that is a string or a list of messages"),
    (SCORED | {"candidates": None}, "has candidate_scores and no candidates"),
    (SCORED | {"chosen": "blue"}, "has no rejected"),
    (SCORED | {"candidate_scores": [1, 1, 1, 1]}, "No row of pairs.jsonl has two candidates of different scores"),
]


@pytest.mark.parametrize(("row", "sentence"), REFUSED, ids=[sentence for _, sentence in REFUSED])
def test_what_candidates_cannot_be_is_one_sentence_that_names_the_row(write, row, sentence) -> None:
    with pytest.raises(ValueError) as error:
        read(write([row]))
    assert sentence in str(error.value) and "  " not in str(error.value)


def test_a_choice_of_pairs_that_has_nothing_to_choose_from_is_refused(write) -> None:
    with pytest.raises(ValueError, match=r"data\.pairs_from_candidates is all, but every row of pairs\.jsonl has its"):
        read(write([PAIR | {"candidates": FOUR}], pairs_from_candidates="all"))
    with pytest.raises(ValueError, match=r"set data\.pairs_from_candidates to best_worst, or leave it out\.$"):
        read(write([PAIR | {"candidates": FOUR}], pairs_from_candidates="all"))
    read(write([PAIR | {"candidates": FOUR}], pairs_from_candidates="best_worst"))


def test_candidates_are_responses_of_no_pair_behind_those_of_pairs_which_stay_as_they_were(write, tokenizer) -> None:
    rows = [PAIR | {"candidates": ["blue", "green", "grass"]}, PAIR | {"rejected": "blue", "candidates": ["today"]}]
    config = write(rows)
    pairs, _ = tokenise(read(config), tokenizer, config)
    plain, _ = tokenise(read(config).without_candidates(), tokenizer, config)
    assert pairs.token_fingerprint() == plain.token_fingerprint() and plain.candidates is None
    found, before = Responses.of(pairs), Responses.of(plain)
    texts = [tokenizer.decode(found.completions[i], skip_special_tokens=True) for i in range(len(found))]
    assert texts == ["the sky is blue", "green", "blue", "grass", "today"]
    assert found.candidates.tolist() == [2, 3, 4]
    assert set(found.prompt_of) == {0}
    for name in ("chosen", "rejected"):
        assert np.array_equal(getattr(found, name), getattr(before, name))
    assert found.by_candidate(np.arange(len(found.completions.values))).size == pairs.candidates.completions.values.size


def tokens_of(tokenizer, text: str) -> int:
    return len(tokenizer(text, add_special_tokens=False)["input_ids"])


@pytest.mark.parametrize("policy", ["drop", "truncate_prompt_left", "truncate_completion"])
def test_a_candidate_too_long_is_cut_or_dropped_alone_and_its_prompt_stays_one(write, tokenizer, policy) -> None:
    long = "the sky is blue and the grass is green " * 3
    rows = [PAIR | {"candidates": [long, "blue"]}, PAIR | {"rejected": "grass"}]
    prompt = tokens_of(tokenizer, PROMPT)
    length = prompt + tokens_of(tokenizer, PAIR["chosen"]) + 3
    config = write(rows, truncation=policy, max_length=length)
    pairs, ledger = tokenise(read(config), tokenizer, config)
    counts, kept = ledger.candidates, [len(pairs.candidates.completions[i]) for i in range(len(pairs.candidates))]
    assert (len(pairs), ledger.too_long, ledger.completions_cut) == (2, 0, 0)
    assert len(Responses.of(pairs).prompts) == 1 and set(pairs.candidates.pair) == {0}
    assert counts["read"] == 2 == counts["kept"] + counts["dropped_too_long"]
    assert "candidates: 2 read" in "\n".join(ledger.lines())
    longest = tokens_of(tokenizer, long) + 1
    if policy == "drop":
        assert (counts["dropped_too_long"], kept) == (1, [tokens_of(tokenizer, "blue") + 1])
    elif policy == "truncate_completion":
        assert (counts["cut"], kept[0], ledger.prompts_cut) == (1, length - prompt, 0)
    else:
        assert ledger.prompts_cut == 2 and pairs.prompt.lengths.tolist() == [max(1, length - longest)] * 2
        assert (counts["cut"], kept[0]) == (int(longest > length - 1), min(longest, length - 1))


def test_candidates_of_a_pair_that_is_dropped_stay_with_another_of_its_prompt_or_are_counted(write, tokenizer) -> None:
    twins = {"chosen": "blue", "rejected": "blue"}
    rows = [
        PAIR | twins | {"candidates": ["grass"]},
        PAIR,
        PAIR | twins | {"prompt": "other\n", "candidates": ["today", "green"]},
    ]
    config = write(rows)
    pairs, ledger = tokenise(read(config), tokenizer, config)
    assert pairs.row.tolist() == [1]
    assert pairs.candidates.pair.tolist() == [0] and pairs.candidates.source.tolist() == [0]
    assert ledger.candidates["dropped_with_their_pairs"] == 2
    assert ledger.dropped_identical == 2


def test_a_candidate_too_long_is_refused_where_the_policy_says_so(write, tokenizer) -> None:
    config = write([PAIR | {"candidates": ["blue " * 30]}], truncation="error", max_length=40)
    with pytest.raises(
        ValueError, match=r"row 1 has a candidate of \d+ tokens with its prompt: raise data\.max_length"
    ):
        tokenise(read(config), tokenizer, config)


def test_a_candidate_that_changes_the_tokens_of_its_prompt_is_refused_or_left_out(write, tokenizer) -> None:
    row = PAIR | {"prompt": "the col", "candidates": ["our of the sky", " sky"]}
    config = write([row], on_prefix_mismatch="error")
    with pytest.raises(ValueError, match="row 1 has a candidate behind which the prompt's tokens are not the first"):
        tokenise(read(config), tokenizer, config)
    config.on_prefix_mismatch = "drop"
    pairs, ledger = tokenise(read(config), tokenizer, config)
    assert pairs.candidates.source.tolist() == [1]
    assert (ledger.candidates["dropped_prefix_mismatch"], ledger.kept) == (1, 1)


def test_tokens_of_candidates_come_from_the_cache_and_those_of_pairs_do_not_depend_on_them(
    write, tokenizer, monkeypatch
) -> None:
    plain = write([PAIR])
    tokenise(read(plain), tokenizer, plain)
    config = write([PAIR | {"candidates": FOUR}])
    of_pairs = importlib.import_module("iwpo_fast.data.tokenise")
    monkeypatch.setattr(of_pairs, "encode_rows", lambda *_, **__: pytest.fail("pairs encoded again"))
    first, _ = tokenise(read(config), tokenizer, config)
    monkeypatch.setattr(module, "encode_candidates", lambda *_, **__: pytest.fail("candidates encoded again"))
    again, _ = tokenise(read(config), tokenizer, config)
    assert again.candidates.token_fingerprint() == first.candidates.token_fingerprint()
    with pytest.raises(pytest.fail.Exception, match="candidates encoded again"):
        other = write([PAIR | {"candidates": FOUR[::-1]}])
        tokenise(read(other), tokenizer, other)


def test_no_candidate_at_all_is_no_trouble(write, tokenizer) -> None:
    config = write([PAIR | {"candidates": []}])
    pairs, ledger = tokenise(read(config), tokenizer, config)
    assert len(pairs.candidates) == 0 and len(Responses.of(pairs)) == 2
    assert ledger.candidates["read"] == 0


def test_log_probs_of_the_data_are_refused_for_a_pair_whose_prompt_only_a_candidate_cuts(write, tokenizer) -> None:
    known = {"ref_chosen_logps": -1.0, "ref_rejected_logps": -2.0}
    length = tokens_of(tokenizer, PROMPT) + tokens_of(tokenizer, PAIR["chosen"]) + 1
    config = write([PAIR | known | {"candidates": [PAIR["chosen"] * 2]}], max_length=length)
    with pytest.raises(ValueError, match="row 1 is cut to"):
        tokenise(read(config), tokenizer, config)
    plain = write([PAIR | known | {"candidates": ["blue"]}], max_length=length)
    assert tokenise(read(plain), tokenizer, plain)[1].kept == 1


def test_a_prompt_that_all_candidates_repeat_is_cut_off_without_a_pair_too(write) -> None:
    row = {"prompt": "why is it?", "candidates": ["why is it? so", "why is it? no"], "candidate_scores": [1, 0]}
    rows = read_rows(write([row, row | {"prompt": "why", "candidates": ["why so", "why no"]}]))[0]
    assert (rows.prompt, rows.chosen) == (["why is it?", "why"], [" so", "why so"])


def test_a_dialogue_that_all_candidates_repeat_is_cut_off_too(write) -> None:
    dialogue = "\n\nHuman: why?\n\nAssistant:"
    row = {"prompt": dialogue, "ranked": [f"{dialogue} so", f"{dialogue} no"]}
    assert read_rows(write([row]))[0].chosen == [" so"]
