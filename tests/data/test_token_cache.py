from __future__ import annotations

import importlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from iwpo_fast.config import DataConfig
from iwpo_fast.data import Ledger, cache_folder, read_rows, tokenise
from iwpo_fast.data.pairs import Pairs
from iwpo_fast.data.ragged import Ragged
from iwpo_fast.data.token_cache import load_tokens, save_tokens, tokens_path

# The package exports the function under the name of its module.
module = importlib.import_module("iwpo_fast.data.tokenise")

PAIR = {"prompt": "what is the colour\n", "chosen": "the sky is blue", "rejected": "green"}
TALK = [{"role": "user", "content": "the colour"}]
CONVERSATION = {
    "prompt": TALK,
    "chosen": [{"role": "assistant", "content": "blue"}],
    "rejected": [{"role": "assistant", "content": "green"}],
}


def tokenised(config, tokenizer) -> tuple[Pairs, Ledger]:
    return tokenise(read_rows(config)[0], tokenizer, config)


@pytest.fixture
def no_encoding(monkeypatch) -> Callable[[], None]:
    def forbid() -> None:
        monkeypatch.setattr(module, "encode_rows", lambda *_, **__: pytest.fail("encoded again"))

    return forbid


def test_the_second_time_comes_from_the_cache(write, tokenizer, no_encoding) -> None:
    config = write([PAIR, PAIR | {"rejected": "today"}])
    pairs, ledger = tokenised(config, tokenizer)
    no_encoding()
    again, ledger_again = tokenised(config, tokenizer)
    assert again.token_fingerprint() == pairs.token_fingerprint()
    assert again.prompt.values.dtype == pairs.prompt.values.dtype
    assert again.prompt.offsets.dtype == pairs.prompt.offsets.dtype
    assert ledger_again == ledger


def test_length_weights_and_an_earlier_padding_do_not_matter_to_the_cache(write, tokenizer, no_encoding) -> None:
    tokenised(write([PAIR]), tokenizer)
    no_encoding()
    tokenizer(["a", "a a a"], padding="max_length", truncation=True, max_length=2)
    pairs, ledger = tokenised(write([PAIR | {"weight": 2.0}], max_length=9), tokenizer)
    assert pairs.weight.tolist() == [2.0]
    assert ledger.prompts_cut == 1


def test_texts_tokenizer_template_and_end_token_matter_to_the_cache(write, tokenizer, bos_tokenizer, tmp_path) -> None:
    def path(row: dict, used=tokenizer, **settings) -> Path:
        config = write([row], **settings)
        return tokens_path(read_rows(config)[0], used, config)

    paths = [
        path(PAIR),
        path(PAIR | {"chosen": "the sky is blue "}),
        path({"prompt": PAIR["prompt"] + "the", "chosen": " sky is blue", "rejected": "green"}),
        path(PAIR, used=bos_tokenizer),
        path(PAIR, add_eos=False),
        path(CONVERSATION),
        path(CONVERSATION | {"tools": [{"name": "sum"}]}),
    ]
    tokenizer.chat_template += " "
    paths.append(path(CONVERSATION))
    tokenizer.add_tokens(["blue"])
    paths.append(path(CONVERSATION))
    assert len(set(paths)) == len(paths)
    assert {p.parent for p in paths} == {tmp_path / "cache" / "tokens"}


def test_rows_dropped_as_mismatches_are_still_an_error_when_they_come_from_the_cache(write, tokenizer) -> None:
    rows = [PAIR, {"prompt": "the col", "chosen": "our of the sky", "rejected": "our today"}]
    tokenised(write(rows, on_prefix_mismatch="drop"), tokenizer)
    with pytest.raises(ValueError, match="row 2 has prompt tokens"):
        tokenised(write(rows, on_prefix_mismatch="error"), tokenizer)


@pytest.mark.parametrize("harm", [lambda whole: b"", lambda whole: whole[:-20], lambda whole: b"{}"])
def test_a_damaged_cache_is_made_anew(harm, write, tokenizer) -> None:
    config = write([PAIR, PAIR | {"rejected": "today"}])
    pairs, _ = tokenised(config, tokenizer)
    (path,) = (cache_folder(config) / "tokens").iterdir()
    whole = path.read_bytes()
    path.write_bytes(harm(whole))
    again, _ = tokenised(config, tokenizer)
    assert again.token_fingerprint() == pairs.token_fingerprint()
    assert path.read_bytes() == whole


@pytest.mark.slow
def test_no_flipped_byte_of_the_cache_gives_other_tokens(tmp_path) -> None:
    some = Ragged.from_rows([[1, 2, 3], [], [4]])
    path = tmp_path / "tokens.parquet"
    save_tokens(path, Pairs(some, some, some, np.ones(3), row=np.arange(3)), np.array([0, 1, 2], dtype=np.int8))
    whole = path.read_bytes()
    refused = 0
    for i in range(0, len(whole), 3):
        path.write_bytes(whole[:i] + bytes([whole[i] ^ 0xFF]) + whole[i + 1 :])
        found = load_tokens(path)
        refused += found is None
        if found is not None:
            tokens, seams = found
            assert seams.tolist() == [0, 1, 2]
            assert tokens.row.tolist() == [0, 1, 2]
            for part in (tokens.prompt, tokens.chosen, tokens.rejected):
                assert (part.values.tolist(), part.offsets.tolist()) == ([1, 2, 3, 4], [0, 3, 3, 4])
    assert refused > len(whole) / 6


def test_nothing_else_stays_in_the_cache_folder(write, tokenizer) -> None:
    config = write([PAIR])
    tokenised(config, tokenizer)
    assert [path.suffix for path in cache_folder(config).rglob("*") if path.is_file()] == [".parquet"]


def test_the_cache_lies_in_the_home_folder_unless_told_otherwise(tmp_path) -> None:
    assert cache_folder(DataConfig(path="x")) == Path.home() / ".cache" / "iwpo_fast"
    assert cache_folder(DataConfig(path="x", cache_dir=str(tmp_path))) == tmp_path
