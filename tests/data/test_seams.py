"""Where prompt and answers meet: merged tokens, white space, and what is counted of it."""

from __future__ import annotations

import numpy as np
import pytest
from test_turns import tokenised

from iwpo_fast.data import read_rows, tokenise

SKY = {"prompt": "what is the sky", "chosen": " blue", "rejected": " green"}
MERGING = SKY | {"prompt": "the col", "chosen": "our of the sky", "rejected": "our today"}


def text_of(tokenizer, *parts) -> str:
    return tokenizer.decode(np.concatenate(parts))


@pytest.mark.parametrize("space", [" ", "  ", "\n "])
def test_white_space_at_a_prompts_end_that_merges_moves_to_the_answers(space, write, tokenizer) -> None:
    row = SKY | {"prompt": f"what is the sky{space}", "chosen": "blue", "rejected": "the grass"}
    pairs, ledger = tokenised(write, tokenizer, row, SKY)
    assert text_of(tokenizer, pairs.prompt[0]) == "what is the sky"
    assert text_of(tokenizer, pairs.chosen[0]) == f"{space}blue</s>"
    assert text_of(tokenizer, pairs.prompt[0], pairs.rejected[0]) == f"what is the sky{space}the grass</s>"
    whole = tokenizer(f"what is the sky{space}the grass</s>", add_special_tokens=False)["input_ids"]
    assert [*pairs.prompt[0], *pairs.rejected[0]] == whole or "apart" in "".join(ledger.lines())
    assert sum(ledger.seams.values()) == 1


def test_white_space_that_does_not_merge_stays_where_it_is(write, tokenizer) -> None:
    row = SKY | {"prompt": "what is the sky\n", "chosen": "blue", "rejected": "green"}
    pairs, ledger = tokenised(write, tokenizer, row)
    assert text_of(tokenizer, pairs.prompt[0]) == row["prompt"] and not ledger.seams


def test_tokens_that_merge_are_those_of_prompt_and_answer_apart_and_counted(write, tokenizer, bos_tokenizer) -> None:
    for used in (tokenizer, bos_tokenizer):
        pairs, ledger = tokenised(write, used, SKY, MERGING)
        apart = [used(text, add_special_tokens=False)["input_ids"] for text in ("the col", "our of the sky</s>")]
        before = [] if used.bos_token is None else [used.bos_token_id]
        assert pairs.prompt[1].tolist() == before + apart[0]
        assert pairs.chosen[1].tolist() == apart[1]
        assert "  prompt and answers tokenised apart, because their tokens merge: 1 rows" in ledger.lines()


def test_what_was_mended_is_said_from_the_cache_too(write, tokenizer) -> None:
    config = write([SKY, MERGING])
    first, again = (tokenise(read_rows(config)[0], tokenizer, config) for _ in range(2))
    assert first[0].token_fingerprint() == again[0].token_fingerprint()
    assert first[1] == again[1] and len(again[1].seams) == 1


def test_candidates_follow_the_prompt_of_their_pair_however_it_was_cut(write, tokenizer) -> None:
    spaced = SKY | {"prompt": "what is the sky ", "chosen": "blue", "rejected": "the grass"}
    rows = [row | {"candidates": [text]} for row, text in ((spaced, "today"), (MERGING, "our"), (SKY, " today"))]
    rows.append({"prompt": "the col", "chosen": "!", "rejected": "?", "candidates": ["our of the sky"]})
    pairs, ledger = tokenised(write, tokenizer, *rows)
    assert len(pairs.candidates) == 4 and ledger.candidates["dropped_prefix_mismatch"] == 0
    of = pairs.candidates
    for k, (pair, row) in enumerate(zip(of.pair, of.source, strict=True)):
        text = text_of(tokenizer, pairs.prompt[pair], of.completions[k])
        assert text == rows[row]["prompt"] + rows[row]["candidates"][0] + "</s>"


def test_candidates_are_encoded_again_where_the_same_prompt_is_cut_elsewhere(write, tokenizer) -> None:
    row = {"prompt": "what is the sky ", "chosen": "!", "rejected": "?", "candidates": ["blue"]}
    for chosen in ("!", "the grass"):
        pairs, _ = tokenised(write, tokenizer, row | {"chosen": chosen})
        text = text_of(tokenizer, pairs.prompt[0], pairs.candidates.completions[0])
        assert text == "what is the sky blue</s>"


@pytest.mark.parametrize("end", ["</s>", "</s>\n", "<|turn|>", "<|turn|>  \n"])
def test_text_that_ends_already_gets_no_second_end(end, write, tokenizer) -> None:
    pairs, _ = tokenised(write, tokenizer, SKY | {"chosen": f" blue{end}"})
    assert text_of(tokenizer, pairs.chosen[0]) == f" blue{end}"
    assert text_of(tokenizer, pairs.rejected[0]) == " green</s>"


def test_white_space_alone_is_no_end(write, tokenizer) -> None:
    pairs, _ = tokenised(write, tokenizer, SKY | {"chosen": " blue\n"})
    assert text_of(tokenizer, pairs.chosen[0]) == " blue\n</s>"
