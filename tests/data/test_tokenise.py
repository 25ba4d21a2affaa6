from __future__ import annotations

import subprocess
import sys

import numpy as np
import pytest
from transformers import ByT5Tokenizer

from iwpo_fast.data import Ledger, Pairs, read_rows, tokenise

PAIR = {"prompt": "what is the colour of the sky\n", "chosen": "the sky is blue", "rejected": "green"}
TALK = [{"role": "system", "content": "be brief"}, {"role": "user", "content": "the colour"}]
YES, NO = ([{"role": "assistant", "content": text}] for text in ("blue", "green"))
CONVERSATION = {"prompt": TALK, "chosen": YES, "rejected": NO}


def tokenised(config, tokenizer) -> tuple[Pairs, Ledger]:
    return tokenise(read_rows(config)[0], tokenizer, config)


def test_prompt_and_completions_are_the_text_and_end_with_one_end_token(write, tokenizer) -> None:
    ended = PAIR | {"rejected": "green</s>"}
    pairs, _ = tokenised(write([PAIR, ended]), tokenizer)
    for row in range(2):
        assert tokenizer.decode(pairs.prompt[row]) == PAIR["prompt"]
        assert tokenizer.decode(pairs.chosen[row]) == PAIR["chosen"] + "</s>"
        assert tokenizer.decode(pairs.rejected[row]) == "green</s>"
    assert pairs.prompt.values.dtype == pairs.chosen.values.dtype == np.int32


def test_no_end_token_is_added_where_none_is_wanted(write, tokenizer) -> None:
    pairs, _ = tokenised(write([PAIR], add_eos=False), tokenizer)
    assert tokenizer.decode(pairs.chosen[0]) == PAIR["chosen"]


def test_a_tokenizer_without_end_token_is_a_clear_error(write, tokenizer) -> None:
    tokenizer.eos_token = None
    with pytest.raises(ValueError, match=r"no end-of-sequence token: set data\.add_eos to false"):
        tokenised(write([PAIR]), tokenizer)


def test_the_beginning_of_sequence_token_stands_once_and_first(write, bos_tokenizer) -> None:
    pairs, _ = tokenised(write([PAIR, PAIR | {"prompt": "<s>" + PAIR["prompt"]}]), bos_tokenizer)
    bos = bos_tokenizer.bos_token_id
    for row in range(2):
        whole = [*pairs.prompt[row], *pairs.chosen[row], *pairs.rejected[row]]
        assert whole[0] == bos
        assert whole.count(bos) == 1
    assert pairs.prompt[0].tolist() == pairs.prompt[1].tolist()


def test_an_empty_prompt_needs_a_beginning_of_sequence_token(write, tokenizer, bos_tokenizer) -> None:
    config = write([PAIR, PAIR | {"prompt": ""}])
    with pytest.raises(ValueError, match="row 2 has an empty prompt"):
        tokenised(config, tokenizer)
    pairs, _ = tokenised(config, bos_tokenizer)
    assert pairs.prompt[1].tolist() == [bos_tokenizer.bos_token_id]


def test_conversations_go_through_the_chat_template(write, tokenizer) -> None:
    pairs, _ = tokenised(write([CONVERSATION]), tokenizer)
    head = "<|turn|>system\nbe brief</s><|turn|>user\nthe colour</s><|turn|>assistant\n"
    assert tokenizer.decode(pairs.prompt[0]) == head
    assert tokenizer.decode(pairs.chosen[0]) == "blue</s>"
    assert tokenizer.decode(pairs.rejected[0]) == "green</s>"


def test_the_template_writes_the_special_tokens_of_conversations_itself(write, bos_tokenizer) -> None:
    pairs, _ = tokenised(write([CONVERSATION]), bos_tokenizer)
    assert bos_tokenizer.bos_token_id not in pairs.prompt[0]


def test_tools_and_template_keywords_of_a_row_reach_the_template(write, tokenizer) -> None:
    tools = [{"name": "search"}, {"name": "sum"}]
    rows = [CONVERSATION, CONVERSATION | {"tools": tools}, CONVERSATION | {"chat_template_kwargs": '{"tools": null}'}]
    pairs, _ = tokenised(write(rows), tokenizer)
    starts = [tokenizer.decode(pairs.prompt[row]).split("<|turn|>")[1] for row in range(3)]
    assert starts == ["system\nbe brief</s>", "tools search sum", "system\nbe brief</s>"]
    assert [tokenizer.decode(pairs.chosen[row]) for row in range(3)] == ["blue</s>"] * 3


def test_a_chat_template_of_ones_own_is_used_and_stays_with_the_tokenizer(write, tokenizer, tmp_path) -> None:
    path = tmp_path / "mine.jinja"
    path.write_text("{% for m in messages %}[{{ m.role }}] {{ m.content }}</s>{% endfor %}"
                    "{% if add_generation_prompt %}[assistant]{% endif %}")  # fmt: skip
    pairs, _ = tokenised(write([CONVERSATION], chat_template=str(path)), tokenizer)
    assert tokenizer.decode(pairs.prompt[0]) == "[system] be brief</s>[user] the colour</s>[assistant]"
    assert tokenizer.decode(pairs.chosen[0]) == " blue</s>"
    assert tokenizer.chat_template == path.read_text()


def test_an_absent_chat_template_is_named(write, tokenizer) -> None:
    with pytest.raises(ValueError, match=r"chat_template absent\.jinja cannot be read"):
        tokenised(write([CONVERSATION], chat_template="absent.jinja"), tokenizer)
    tokenizer.chat_template = None
    with pytest.raises(ValueError, match=r"has no chat template: set data\.chat_template"):
        tokenised(write([CONVERSATION]), tokenizer)


def test_a_chat_template_that_fails_is_one_sentence(write, tokenizer, tmp_path) -> None:
    path = tmp_path / "mine.jinja"
    for template, why in [("{{ 1/0 }}", "division by zero"), ("{% for %}", "Expected"), ("{{ none.x.y }}", "None")]:
        path.write_text(template)
        with pytest.raises(ValueError, match=rf"row 1 does not fit the chat template \(.*{why}") as raised:
            tokenised(write([CONVERSATION], chat_template=str(path)), tokenizer)
        assert "\n" not in str(raised.value)


def test_a_binary_chat_template_is_refused(write, tokenizer, tmp_path) -> None:
    path = tmp_path / "mine.jinja"
    path.write_bytes(b"\xff\xfe\x00")
    with pytest.raises(ValueError, match=r"mine\.jinja is not text in UTF-8"):
        tokenised(write([CONVERSATION], chat_template=str(path)), tokenizer)


def test_the_row_that_the_template_refuses_is_named(write, tokenizer) -> None:
    strange = CONVERSATION | {"prompt": [{"role": "wizard", "content": "the colour"}]}
    with pytest.raises(ValueError, match=r"row 2 does not fit the chat template \(unknown role\)"):
        tokenised(write([CONVERSATION, strange]), tokenizer)


# The completion goes on inside the prompt's last word, so the tokens at the seam merge.
SEAM = {"prompt": "the col", "chosen": "our of the sky", "rejected": "our today"}


@pytest.mark.parametrize("only", ["chosen", "rejected", "both"])
def test_a_prompt_whose_tokens_do_not_begin_both_sequences_is_reported(only, write, tokenizer) -> None:
    others = {"chosen": "\n", "rejected": "!"}
    seam = SEAM if only == "both" else SEAM | others | {only: SEAM[only]}
    with pytest.raises(ValueError, match=r"row 2 \(the first of 2\) has prompt tokens that are not the first"):
        tokenised(write([PAIR, seam, seam], on_prefix_mismatch="error"), tokenizer)


def test_a_prompt_whose_tokens_do_not_begin_the_whole_is_dropped_and_counted_on_request(write, tokenizer) -> None:
    rows = [row | {"weight": weight} for row, weight in [(SEAM, 1.0), (PAIR, 3.0), (SEAM, 2.0)]]
    pairs, ledger = tokenised(write(rows, on_prefix_mismatch="drop"), tokenizer)
    assert pairs.weight.tolist() == [3.0]
    assert (ledger.rows_read, ledger.kept, ledger.dropped_prefix_mismatch) == (3, 1, 2)


@pytest.mark.parametrize("policy", ["split", "error", "drop"])
def test_what_a_template_ends_prompts_with_and_does_not_repeat_is_left_out_and_said(policy, write, tokenizer) -> None:
    plain, _ = tokenised(write([CONVERSATION] * 2), tokenizer)
    tokenizer.chat_template += "{% if add_generation_prompt %}<think>{% endif %}"
    pairs, ledger = tokenised(write([CONVERSATION] * 2, on_prefix_mismatch=policy), tokenizer)
    assert pairs.token_fingerprint() == plain.token_fingerprint()
    assert any("what it does not repeat" in line and line.endswith("2 rows") for line in ledger.lines())


def test_rows_without_one_prompt_are_in_the_ledger_too(write, tokenizer) -> None:
    rows = [
        {"chosen": "\n\nHuman: x\n\nAssistant: a", "rejected": "\n\nHuman: x\n\nAssistant: b"},
        {"chosen": "\n\nHuman: x\n\nAssistant: a", "rejected": "\n\nHuman: y\n\nAssistant: b"},
    ]
    _, ledger = tokenised(write(rows, on_prefix_mismatch="drop"), tokenizer)
    assert (ledger.rows_read, ledger.kept, ledger.dropped_prefix_mismatch) == (2, 1, 1)


def test_weights_smoothing_and_further_columns_follow_their_rows(write, tokenizer) -> None:
    same = PAIR | {"rejected": PAIR["chosen"]}
    rows = [
        PAIR | {"weight": 0.0, "label_smoothing": 0.1, "cluster": 4, "score_chosen": 1, "score_rejected": 1},
        same | {"weight": 5.0, "label_smoothing": 0.2, "cluster": 4, "score_chosen": 1, "score_rejected": 0},
        PAIR | {"weight": 2.0, "label_smoothing": 0.3, "cluster": 6, "score_chosen": 2, "score_rejected": None},
    ]
    pairs, ledger = tokenised(write(rows), tokenizer)
    assert pairs.weight.tolist() == [0.0, 2.0]
    assert pairs.label_smoothing.tolist() == [0.1, 0.3]
    assert pairs.columns["cluster"].tolist() == [4.0, 6.0]
    assert set(pairs.columns) == {"cluster", "score_chosen", "score_rejected"}
    assert (ledger.dropped_identical, ledger.equal_scores) == (1, 1)


def test_pairs_weigh_one_without_a_weight_column(write, tokenizer) -> None:
    pairs, _ = tokenised(write([PAIR]), tokenizer)
    assert pairs.weight.tolist() == [1.0]
    assert pairs.label_smoothing is None


def test_padding_and_truncation_that_were_asked_for_earlier_do_not_leak_in(write, tokenizer, tmp_path) -> None:
    expected, _ = tokenised(write([PAIR]), tokenizer)
    tokenizer(["a", "a a a"], padding="max_length", truncation=True, max_length=2)
    pairs, _ = tokenised(write([PAIR], cache_dir=str(tmp_path / "another")), tokenizer)
    assert pairs.token_fingerprint() == expected.token_fingerprint()


def test_a_tokenizer_without_a_rust_core_works_too(write) -> None:
    slow = ByT5Tokenizer()
    assert not slow.is_fast
    pairs, _ = tokenised(write([PAIR, PAIR | {"chosen": "é"}]), slow)
    assert pairs.prompt[1].tolist() == [byte + 3 for byte in PAIR["prompt"].encode()]
    assert pairs.chosen[1].tolist() == [*(byte + 3 for byte in "é".encode()), slow.eos_token_id]


def test_a_bar_is_shown_on_terminals_only(write, tokenizer, capsys) -> None:
    config = write([PAIR])
    tokenise(read_rows(config)[0], tokenizer, config, progress=True)
    assert capsys.readouterr().err == ""


@pytest.mark.slow
def test_importing_the_package_does_not_import_the_heavy_libraries() -> None:
    heavy = ["torch", "transformers", "datasets", "pyarrow"]
    code = f"import sys, iwpo_fast.data; sys.exit(any(name in sys.modules for name in {heavy}))"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_many_batches_give_the_rows_in_order(write, tokenizer) -> None:
    rows = [{"prompt": f"number {i}:", "chosen": f" {i}", "rejected": " none"} for i in range(600)]
    pairs, _ = tokenised(write(rows), tokenizer)
    assert [tokenizer.decode(pairs.chosen[i]) for i in range(600)] == [f" {i}</s>" for i in range(600)]


def test_a_dataset_with_nothing_left_is_an_error(write, tokenizer) -> None:
    with pytest.raises(ValueError, match=r"No pair of pairs\.jsonl is left \(2 longer than 3 tokens\).*max_length"):
        tokenised(write([PAIR, PAIR], max_length=3, truncation="drop"), tokenizer)
    with pytest.raises(ValueError, match="1 with two identical completions"):
        tokenised(write([PAIR | {"chosen": "green"}]), tokenizer)


def test_a_maximum_without_room_for_prompt_and_completion_is_refused(write, tokenizer) -> None:
    with pytest.raises(ValueError, match="max_length is 1"):
        tokenised(write([PAIR], max_length=1), tokenizer)


def test_prompts_of_which_almost_nothing_is_left_have_a_line_that_says_what_to_do(write, tokenizer) -> None:
    rows = [{"prompt": "one two three four five six seven", "chosen": f"a{i}", "rejected": f"b{i}"} for i in range(2)]
    lines = []
    for longest in (8, 512):
        config = write(rows, max_length=longest)
        lines.append("\n".join(tokenise(read_rows(config)[0], tokenizer, config)[1].lines()))
    assert "almost nothing is left: 2 (raise data.max_length" in lines[0]
    assert "almost nothing" not in lines[1]


def test_answers_that_are_all_the_same_have_no_advice_about_lengths(write, tokenizer) -> None:
    config = write([{"prompt": "q", "chosen": "a", "rejected": "a"}] * 2)
    with pytest.raises(ValueError, match=r"is left \(2 with two identical completions\): correct the data\.$"):
        tokenise(read_rows(config)[0], tokenizer, config)
