"""Draw completions of the training prompts from the policy as it is before training, as further candidates."""

from __future__ import annotations

import shutil
import time
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from transformers import PreTrainedTokenizerBase

from iwpo_fast.config import RunConfig
from iwpo_fast.data.encode import encode_candidates, encode_prompts
from iwpo_fast.data.ragged import Ragged
from iwpo_fast.data.rows import Rows
from iwpo_fast.data.tokenise import use_template
from iwpo_fast.data.truncate import tails
from iwpo_fast.data.unique import digests, numbered
from iwpo_fast.files import load_record
from iwpo_fast.pipeline.folder import PipelineFolder
from iwpo_fast.pipeline.job import PipelineJob
from iwpo_fast.pipeline.manifest import Result, sections
from iwpo_fast.pipeline.stages import reference
from iwpo_fast.progress import progress
from iwpo_fast.sampling.blocks import Block, Draw, blocks_of, seed_of
from iwpo_fast.sampling.drawer import Drawer, backend_of, drawn_by_engine, drawn_by_policy, ends_of_answers, text_of
from iwpo_fast.sampling.store import Record, load_part, merged, part_of, save_part, save_records, with_samples

WHAT = "completions drawn from the policy"
NEEDS = ("prepare",)


class Prompts(NamedTuple):
    """What is drawn for: M different prompts of the training rows.

    Attributes:
        rows: the training rows.
        row: int64 [M], the first row with each prompt.
        tokens: token ids, M rows.
        too_long: prompts that leave no room for a completion.
    """

    rows: Rows
    row: np.ndarray
    tokens: Ragged
    too_long: int


def settings(config: RunConfig) -> dict[str, Any]:
    return reference.settings(config) | sections(config, "candidates")


def outputs(folder: PipelineFolder) -> list[Path]:
    return [folder.samples]


def resumes(folder: PipelineFolder) -> Path:
    return folder.sample_parts


def check(job: PipelineJob) -> None:
    """Raise ValueError where vLLM is asked for in a job of several processes."""
    if job.config.candidates.backend == "vllm" and job.world.size > 1:
        raise ValueError(
            f"candidates.backend is vllm in a job of {job.world.size} processes, and vLLM starts its own: run --only "
            "sample in one process first, or set candidates.backend to transformers."
        )


def on_all_ranks(job: PipelineJob) -> Prompts:
    """Draw this rank's blocks, except those that an earlier call has left."""
    asked, world = job.config.candidates, job.world
    backend = backend_of(asked.backend, job.config.model, world)
    prompts = _prompts(job)
    blocks = list(enumerate(blocks_of(prompts.tokens.lengths, asked, backend)))[world.rank :: world.size]
    place = job.folder.sample_parts
    left = [(number, block) for number, block in blocks if load_part(part_of(place, number)) is None]
    most = world.largest(len(left))
    if most:
        draw = _drawer(job, backend)
        _draw_all(job, prompts, left, draw)
        _keep_in_step(job, prompts, most - len(left), draw)
    world.barrier()
    return prompts


def run(job: PipelineJob, prompts: Prompts) -> Result:
    parts = sorted(job.folder.sample_parts.glob("*.json"))
    drawn = [record for path in parts for record in load_record(path)["records"]]
    there = [record for record in drawn if record["tokens"] and _text(record["completion"])]
    if not there:
        raise ValueError(
            f"All {len(drawn)} completions that {job.config.model.path} gave are empty: look at the model and its chat "
            "template, or set candidates.per_prompt to 0."
        )
    different = merged(there)
    kept, _ = encode_candidates(with_samples(prompts.rows, different), job.load_tokenizer(), job.config.data)
    save_records(job.folder.samples, [different[k] for k in kept])
    shutil.rmtree(job.folder.sample_parts, ignore_errors=True)
    result = {
        "prompts": len(prompts.row),
        "prompts_too_long": prompts.too_long,
        "drawn": len(drawn),
        "not_ended": sum(not record["ended"] for record in drawn),
        "kept": len(kept),
        "dropped_empty": len(drawn) - len(there),
        "dropped_duplicate": len(there) - len(different),
        "dropped_prefix_mismatch": len(different) - len(kept),
    }
    print(", ".join(f"{count:,} {name.replace('_', ' ')}" for name, count in result.items() if count))
    return result


def _prompts(job: PipelineJob) -> Prompts:
    """The different prompts, cut or left out as `data.truncation` says where they leave no room for a completion."""
    rows, tokenizer, data = job.read_prepared().without_candidates(), job.load_tokenizer(), job.config.data
    use_template(rows, tokenizer, data)
    tokens = encode_prompts(rows, tokenizer, data)
    _, first = numbered(digests(tokens))
    room = data.max_length - job.config.candidates.max_new_tokens
    if data.truncation == "truncate_prompt_left":
        lengths = np.minimum(tokens.lengths[first], room)
        return Prompts(rows, first, tails(tokens, first, lengths, tokenizer.bos_token_id), 0)
    fitting = first[tokens.lengths[first] <= room]
    if not len(fitting):
        raise ValueError(
            f"No prompt of {rows.source} leaves room for {job.config.candidates.max_new_tokens} more tokens: raise "
            f"data.max_length from {data.max_length}, or lower candidates.max_new_tokens."
        )
    return Prompts(rows, fitting, tokens.take(fitting), len(first) - len(fitting))


def _drawer(job: PipelineJob, backend: str) -> Drawer:
    tokenizer = job.load_tokenizer()
    ends = ends_of_answers(job.model.path, tokenizer)
    if backend == "vllm":
        return drawn_by_engine(job.model, ends=ends, max_length=job.config.data.max_length, seed=job.config.seed)
    return drawn_by_policy(job.load_policy(), ends=ends, pad=tokenizer.pad_token_id)


def _draw_all(job: PipelineJob, prompts: Prompts, left: list[tuple[int, Block]], draw: Drawer) -> None:
    """Draw these blocks and save each as it is finished; rank 0 says how fast it goes."""
    tokenizer, world = job.load_tokenizer(), job.world
    total, tokens, begin = sum(len(block.prompt) for _, block in left), 0, time.monotonic()
    with progress("sampling", total, "completion", shown=world.is_main) as bar:
        for number, block in left:
            of_block = prompts.tokens.take(block.prompt)
            draws = draw(of_block, job.config.candidates, seed_of(job.config.seed, number, of_block))
            records = map(partial(_record, prompts, tokenizer), block.prompt, block.draw, draws)
            save_part(part_of(job.folder.sample_parts, number), records)
            tokens += sum(len(drawn.tokens) + drawn.ended for drawn in draws)
            bar.update(len(draws))
            bar.set_postfix_str(f"{tokens / (time.monotonic() - begin):,.0f} tokens/s")
    if world.is_main and left:
        seconds = time.monotonic() - begin
        print(f"{total:,} completions of {tokens:,} tokens in {seconds:.1f} s: {tokens / seconds:,.0f} tokens/s")


def _keep_in_step(job: PipelineJob, prompts: Prompts, more: int, draw: Drawer) -> None:
    """Ranks that share the model draw equally often: one with fewer blocks draws so much more, and keeps none of it."""
    shortest = prompts.tokens.take(np.array([int(prompts.tokens.lengths.argmin())]))
    for _ in range(more if job.mesh is not None else 0):
        draw(shortest, job.config.candidates, 0)


def _record(prompts: Prompts, tokenizer: PreTrainedTokenizerBase, prompt: int, draw: int, drawn: Draw) -> Record:
    text = text_of(drawn, tokenizer)
    return {
        "row": int(prompts.row[prompt]),
        "draw": int(draw),
        "completion": [{"role": "assistant", "content": text}] if prompts.rows.conversational else text,
        "tokens": len(drawn.tokens),
        "ended": drawn.ended,
        "log_mu": drawn.log_mu,
        "log_model": drawn.log_model,
    }


def _text(completion: Any) -> str:
    return completion if isinstance(completion, str) else completion[0]["content"]
