"""From the policies of the last round to the saved mixture of them."""

from __future__ import annotations

import shutil

import numpy as np

from iwpo_fast.annotators.folder import TypesFolder
from iwpo_fast.annotators.gains import Comparison
from iwpo_fast.annotators.minmax import Floats, least_regret, regrets, worst
from iwpo_fast.annotators.mixture import RECORD, Mixture
from iwpo_fast.config import CandidateConfig, TrainConfig
from iwpo_fast.data import Pairs, Rows, tokenise
from iwpo_fast.data.ragged import Ragged
from iwpo_fast.data.unique import digests
from iwpo_fast.files import load_record, save_record, written_aside
from iwpo_fast.models import load_policy, load_tokenizer
from iwpo_fast.models.saved_files import RECORD as HASHES
from iwpo_fast.models.saving import stop_tokens
from iwpo_fast.models.trained import type_name
from iwpo_fast.training.answer_ends import ends_of
from iwpo_fast.training.checkpoint import load_weights
from iwpo_fast.training.run_folder import RunFolder
from iwpo_fast.training.samples import with_room
from iwpo_fast.world import World


def mix(config: TrainConfig, folder: TypesFolder, rows: Rows, asked_for: Rows, world: World) -> None:
    """Save the mixture of the policies that the last round trained, unless it is there. All ranks call it.

    Args:
        rows: those that were trained on.
        asked_for: those whose prompts are answered.
    """
    types = config.types
    assert types is not None
    last = folder.round(types.rounds)
    made_by = {
        "model": load_record(last.model / HASHES)["files"],
        "prompts": types.mixture_prompts,
        "tokens": types.mixture_tokens,
        "scale": types.regret_weights or [1.0] * types.count,
    }
    if world.from_main(Mixture.is_made_by(folder.mixture, made_by)):
        world.say(f"{folder.mixture} holds the mixture of these policies: nothing to do.")
        return
    world.say("\n==== mixture ====")
    gains = _comparison(config, last, rows, asked_for, world).gains(config.seed)
    regret = regrets(gains, made_by["scale"])
    weights = least_regret(regret)
    if world.is_main:
        folder.take()
        with written_aside(folder.mixture) as aside:
            for number in range(types.count):
                shutil.copytree(last.model / type_name(number), aside / type_name(number))
            found = {"weights": weights.tolist(), "gains": gains.tolist(), "regrets": regret.tolist()}
            save_record(aside / RECORD, found | {"made_by": made_by})
    world.barrier()
    world.say(*mixture_lines(weights, regret), f"the mixture is in {folder.mixture}")


def mixture_lines(weights: Floats, regret: Floats) -> list[str]:
    """Weights, and what the worst off regrets, for people."""
    alone = " or ".join(f"{worst(regret, one):.3g}" for one in np.eye(len(weights)))
    shares = ", ".join(f"{type_name(number)} {weight:.3f}" for number, weight in enumerate(weights))
    return [
        f"an answer is drawn from {shares}",
        f"the worst off regrets {worst(regret, weights):.3g} nats by the mixture, {alone} by the policy of one type",
    ]


def _comparison(config: TrainConfig, last: RunFolder, rows: Rows, asked_for: Rows, world: World) -> Comparison:
    types, longest = config.types, config.data.max_length
    assert types is not None
    tokenizer = load_tokenizer(config.model, rows.texts())
    with world.main_first():
        pairs, _ = tokenise(asked_for.without_candidates(), tokenizer, config.data)
    policy = load_policy(config.model, tokenizer, world, seed=config.seed, max_length=longest, types=types.count)
    load_weights(last.checkpoints, policy.trainable_parameters(), world)
    return Comparison(
        policy=policy,
        prompts=_prompts(pairs, types.mixture_prompts, types.mixture_tokens, longest),
        asked=CandidateConfig(
            per_prompt=1, max_new_tokens=types.mixture_tokens, tokens_per_batch=config.optim.tokens_per_batch
        ),
        ends=sorted({tokenizer.eos_token_id, *stop_tokens(policy.model), *ends_of(pairs, tokenizer)}),
        pad=int(tokenizer.pad_token_id),
        world=world,
    )


def _prompts(pairs: Pairs, count: int, tokens: int, longest: int) -> Ragged:
    """The first so many different prompts that leave room for a completion."""
    first = {key: row for row, key in reversed(list(enumerate(digests(pairs.prompt))))}
    different = [pairs.prompt[row] for row in sorted(first.values())]
    return Ragged.from_rows(with_room(different, tokens, longest)[:count])
