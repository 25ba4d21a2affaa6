import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from iwpo_fast.data.order import SharedPrompts, epoch_order, micro_batches, step_rows


def test_order_depends_on_seed_and_epoch() -> None:
    assert (epoch_order(50, seed=1, epoch=0) == epoch_order(50, seed=1, epoch=0)).all()
    assert (epoch_order(50, seed=1, epoch=0) != epoch_order(50, seed=1, epoch=1)).any()
    assert (epoch_order(50, seed=1, epoch=0) != epoch_order(50, seed=2, epoch=0)).any()


def test_steps_of_an_epoch_visit_every_pair_once_and_the_last_may_be_smaller() -> None:
    steps = [step_rows(10, step, pairs_per_step=4, seed=0) for step in range(3)]
    assert [len(rows) for rows in steps] == [4, 4, 2]
    assert sorted(np.concatenate(steps)) == list(range(10))
    second_epoch = step_rows(10, 3, pairs_per_step=4, seed=0)
    assert (second_epoch == epoch_order(10, seed=0, epoch=1)[:4]).all()


@pytest.mark.slow
@given(
    tokens=st.lists(st.integers(1, 60), min_size=1, max_size=40),
    budget=st.integers(10, 200),
    max_pairs=st.none() | st.integers(1, 6),
    ranks=st.integers(1, 4),
    prompts=st.none() | st.integers(1, 10),
)
def test_micro_batches_hold_every_pair_once_within_budget_and_cap_in_equal_number_on_each_rank(
    tokens, budget, max_pairs, ranks, prompts
) -> None:
    lengths = np.array(tokens)
    shared = None if prompts is None else SharedPrompts(np.arange(len(tokens)) % prompts, 7 * np.arange(prompts))
    rows = np.arange(len(tokens))
    dealt = micro_batches(rows, lengths, budget=budget, max_pairs=max_pairs, ranks=ranks, shared=shared)
    assert len(dealt) == ranks
    assert len({len(batches) for batches in dealt}) == 1
    batches = [rows for rank in dealt for rows in rank]
    assert sorted(np.concatenate(batches)) == list(range(len(tokens)))
    for rows in batches:
        of_prompts = 0 if shared is None else shared.tokens[np.unique(shared.of[rows])].sum()
        assert len(rows) <= 1 or of_prompts + lengths[rows].sum() <= budget
        assert max_pairs is None or len(rows) <= max_pairs


def test_rows_of_one_prompt_stay_together_as_far_as_they_fit_and_count_it_once() -> None:
    tokens, prompts = np.array([40, 30, 20, 10, 35, 5]), np.array([0, 1, 0, 2, 1, 0])

    def dealt(budget: int, of_prompt: int) -> list[list[int]]:
        shared = SharedPrompts(prompts, np.full(3, of_prompt))
        [batches] = micro_batches(np.arange(6), tokens, budget=budget, shared=shared)
        return sorted(sorted(rows.tolist()) for rows in batches)

    assert dealt(70, 0) == dealt(79, 9) == [[0, 2, 5], [1, 4], [3]]
    assert [0, 2] in dealt(60, 0)
    assert [0, 2] in dealt(73, 9)


def test_ranks_carry_nearly_equal_work() -> None:
    tokens = np.random.default_rng(0).integers(50, 500, size=256)
    dealt = micro_batches(np.arange(256), tokens, budget=4000, ranks=4)
    work = [sum(tokens[rows].sum() for rows in batches) for batches in dealt]
    assert max(work) <= 1.02 * min(work)


@pytest.mark.parametrize(("max_pairs", "accumulation"), [(8, 1), (4, 2), (1, 8)])
def test_the_pair_cap_sets_the_accumulation(max_pairs, accumulation) -> None:
    dealt = micro_batches(np.arange(8), np.full(8, 10), budget=1000, max_pairs=max_pairs)
    assert [len(rows) for rows in dealt[0]] == [max_pairs] * accumulation
