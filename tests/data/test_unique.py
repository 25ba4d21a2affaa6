import numpy as np

from iwpo_fast.data.pairs import Pairs
from iwpo_fast.data.ragged import Ragged
from iwpo_fast.data.unique import Responses, numbered


def make_pairs(prompt: list[list[int]], dtype: type = np.int32) -> Pairs:
    parts = {"prompt": prompt, "chosen": [[1]] * len(prompt), "rejected": [[2, 3]] * len(prompt)}
    return Pairs(**{k: Ragged.from_rows(v, dtype) for k, v in parts.items()}, weight=np.ones(len(prompt)))


def test_numbers_count_from_0_in_order_of_first_appearance() -> None:
    number, first = numbered("cabcbd")
    assert number.tolist() == [0, 1, 2, 0, 2, 3]
    assert first.tolist() == [0, 1, 2, 5]
    assert np.isin(np.arange(6), first).tolist() == [True, True, True, False, False, True]
    assert number.dtype == first.dtype == np.int64


def test_prompts_are_told_apart_by_all_their_tokens_and_responses_by_their_prompt_too() -> None:
    responses = Responses.of(make_pairs([[5, 6], [5], [5, 6], [6, 5]]))
    assert responses.prompt_of[responses.chosen].tolist() == [0, 1, 0, 2]
    assert np.stack([responses.chosen, responses.rejected], axis=1).ravel().tolist() == [0, 1, 2, 3, 0, 1, 4, 5]


def test_keys_stay_the_same_across_versions_machines_and_integer_types() -> None:
    expected = ["8979391e54f6d00b38ccc776c011ccb4", "5fd453bb3179b8193484dfaddfe6201e"]
    assert Responses.of(make_pairs([[5, 6], [70000]])).prompt_keys == expected
    assert Responses.of(make_pairs([[5, 6], [70000]], np.int64)).prompt_keys == expected


def test_responses_are_each_there_once_with_their_prompt_and_pairs_find_what_belongs_to_them() -> None:
    prompt, chosen, rejected = [[5, 6], [5], [5, 6], [5, 6]], [[7], [7], [8, 8], [7]], [[8, 8], [9], [9], [8, 8]]
    parts = (Ragged.from_rows(part) for part in (prompt, chosen, rejected))
    pairs = Pairs(*parts, weight=np.ones(4))
    found = Responses.of(pairs)
    assert [found.completions[i].tolist() for i in range(len(found))] == [[7], [8, 8], [7], [9], [9]]
    assert [found.prompts[i].tolist() for i in found.prompt_of] == [[5, 6], [5, 6], [5], [5], [5, 6]]
    assert (found.chosen.tolist(), found.rejected.tolist()) == ([0, 2, 1, 0], [1, 3, 4, 1])
    assert found.first_of_prompt.tolist() == [True, False, True, False, False]
    values = found.by_pair(np.arange(len(found.completions.values)))
    assert values["chosen"].tolist() == [0, 3, 1, 2, 0]
    assert values["rejected"].tolist() == [1, 2, 4, 5, 1, 2]
