from __future__ import annotations

from random import Random

import pytest

from iwpo_fast.demo.tasks import CLOSING, OPENING, TASKS, Task, similarity

GARBAGE = ["", "   ", "\n", "zzz", "�\x00", "!!! ??? ###", "Of course! Thank you."]


@pytest.fixture(params=TASKS.values(), ids=TASKS)
def task(request) -> Task:
    return request.param


def prompts(task, n=50) -> list[str]:
    rng = Random(7)
    return [task.new_prompt(rng) for _ in range(n)]


def test_known_answers() -> None:
    asked = {
        "numbered": ("Number these: fig cow saw :", ["1", "fig", "2", "cow", "3", "saw"]),
        "repeated": ("Ann says fig cow 3 times:", ["fig", "cow"] * 3),
        "kinds": ("What are these: fig cow saw hat ?", ["fruit", "animal", "tool", "garment"]),
        "reply": (
            "Eva wrote on Monday: my hat is late . Reply:",
            ["Dear", "Eva", ",", "we", "will", "trace", "your", "hat", "."],
        ),
    }
    for name, (prompt, answer) in asked.items():
        assert TASKS[name].answer(prompt) == answer


def test_the_best_completion_has_the_highest_reward_and_garbage_the_lowest(task) -> None:
    rng = Random(0)
    for prompt in prompts(task):
        best, lowest = task.level + 2 * task.scale, task.level - 2 * task.scale
        assert task.gold_reward(prompt, task.best(prompt)) == pytest.approx(best)
        for garbage in GARBAGE:
            assert task.gold_reward(prompt, garbage) == lowest
        for _ in range(20):
            assert lowest <= task.gold_reward(prompt, task.complete(prompt, rng)) <= best


def test_every_missing_word_costs_reward(task) -> None:
    for prompt in prompts(task):
        words = task.answer(prompt)
        rewards = [task.gold_reward(prompt, " ".join(words[:n])) for n in range(len(words) + 1)]
        assert rewards == sorted(set(rewards))


def test_courtesy_is_rewarded_where_it_is_wanted_and_costs_where_it_is_not(task) -> None:
    for prompt in prompts(task, 10):
        body = " ".join(task.answer(prompt))
        plain, courteous = (task.gold_reward(prompt, t) for t in (body, f"{OPENING} {body} {CLOSING}"))
        assert (courteous > plain) == task.wants_courtesy


def test_two_families_want_courtesy_and_two_do_not() -> None:
    assert sorted(task.wants_courtesy for task in TASKS.values()) == [False, False, True, True]


def test_levels_and_scales_differ_between_families() -> None:
    assert len({task.level for task in TASKS.values()}) == len({task.scale for task in TASKS.values()}) == 4


def test_completions_spread_over_qualities(task) -> None:
    rng = Random(1)
    qualities = [task.quality(prompt, task.complete(prompt, rng)) for prompt in prompts(task, 400)]
    assert 0.5 < sum(qualities) / len(qualities) < 0.75
    assert min(sum(q < 0.4 for q in qualities), sum(q > 0.9 for q in qualities)) >= 10


def test_completions_have_words_and_begin_with_a_space(task) -> None:
    rng = Random(2)
    for prompt in prompts(task, 300):
        completion = task.complete(prompt, rng)
        assert completion[0] == " " and completion.strip()


def test_the_same_seed_gives_the_same_prompts_and_completions(task) -> None:
    def draw(seed) -> list[tuple[str, str]]:
        rng = Random(seed)
        return [(p := task.new_prompt(rng), task.complete(p, rng)) for _ in range(20)]

    assert draw(3) == draw(3) != draw(4)


@pytest.mark.parametrize(
    "expected, given, value",
    [
        ("a b c", "a b c", 1.0),
        ("a b c", "a c", 2 / 3),
        ("a b c", "a x c", 2 / 3),
        ("a b", "a b c d", 0.5),
        ("a b", "x y", 0.0),
        ("a b", "", 0.0),
        ("", "", 1.0),
    ],
)
def test_similarity_is_one_minus_the_relative_edit_distance(expected, given, value) -> None:
    assert similarity(expected.split(), given.split()) == pytest.approx(value)
    assert similarity(given.split(), expected.split()) == pytest.approx(value)
