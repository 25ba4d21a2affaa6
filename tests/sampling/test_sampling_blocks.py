import numpy as np

from iwpo_fast.config import CandidateConfig
from iwpo_fast.data.ragged import Ragged
from iwpo_fast.sampling.blocks import OF_VLLM, blocks_of, seed_of


def test_every_draw_is_in_one_block_under_the_budget_and_the_longest_prompts_are_first() -> None:
    lengths = np.array([3, 50, 7, 7, 90, 1])
    asked = CandidateConfig(per_prompt=3, max_new_tokens=10, tokens_per_batch=60)
    blocks = blocks_of(lengths, asked, "transformers")
    assert sorted(zip(*map(np.concatenate, zip(*blocks, strict=True)), strict=True)) == [
        (prompt, draw) for prompt in range(6) for draw in range(3)
    ]
    longest = [lengths[block.prompt].max() for block in blocks]
    assert longest == sorted(longest, reverse=True)
    for block, length in zip(blocks, longest, strict=True):
        assert len(block.prompt) == 1 or len(block.prompt) * (length + 10) <= 60
    assert max(len(block.prompt) for block in blocks) > 1
    assert [len(block.prompt) for block in blocks_of(np.ones(2000, dtype=int), asked, "vllm")] == [
        OF_VLLM,
        6000 - OF_VLLM,
    ]


def test_seeds_depend_on_the_runs_seed_the_number_of_the_block_and_its_prompts_alone() -> None:
    prompts, others = Ragged.from_rows([[1, 2], [3]]), Ragged.from_rows([[1], [2, 3]])
    seeds = [seed_of(0, 0, prompts), seed_of(1, 0, prompts), seed_of(0, 1, prompts), seed_of(0, 0, others)]
    assert len(set(seeds)) == 4 and seeds[0] == seed_of(0, 0, prompts.take(np.arange(2)))
    assert all(0 <= seed < 2**63 for seed in seeds)
