"""The estimate of a run, in lines."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from iwpo_fast.config import RunConfig, TrainConfig
from iwpo_fast.data.unique import Responses
from iwpo_fast.importance.arms import arm_weights
from iwpo_fast.planning.figures import Estimate
from iwpo_fast.planning.memory import FREE, fits, training_memory
from iwpo_fast.planning.setting import Setting
from iwpo_fast.planning.stages import STAGES, reference_of_training

MOST_GPUS = 1024


def estimate_lines(config: TrainConfig, stages: Sequence[str] = ("reference", "train")) -> list[str]:
    """Tokens, FLOPs, hours and memory of stages, on the GPUs that `config.plan` names.

    Args:
        stages: of `iwpo run`, whether they are done already or not; those of `iwpo train` by default.

    Raises:
        ValueError: neither data and model nor `plan` say what is to be run.
    """
    setting = Setting.of(config)
    estimates = stage_estimates(setting, stages)
    return [*_heading(setting), *_table(estimates), *_memory_lines(setting, estimates), *_caveats(setting)]


def stage_estimates(setting: Setting, stages: Sequence[str]) -> dict[str, Estimate]:
    """By name."""
    whole = isinstance(setting.config, RunConfig)
    made = STAGES if whole else STAGES | {"reference": reference_of_training}
    return {name: made[name](setting) for name in stages} | (_of_arms(setting) if "evaluate" in stages[1:] else {})


def _of_arms(setting: Setting) -> dict[str, Estimate]:
    """What the arms of a run train and evaluate."""
    config = setting.config
    assert isinstance(config, RunConfig)
    found: dict[str, Estimate] = {}
    for arm in config.arms:
        of_arm = setting._replace(config=replace(config, weights=arm_weights(arm, config.weights)))
        found |= {f"{name}, {arm}": STAGES[name](of_arm) for name in ("train", "evaluate")}
    return found


def _heading(setting: Setting) -> list[str]:
    gpu, plan, lengths = setting.gpu, setting.config.plan, setting.lengths
    worst, best = plan.utilisation
    policy = setting.policy
    entries = sum(p.numel() for p in policy.parameters())
    trained = sum(p.numel() for p in policy.trainable_parameters().values())
    held_out = "nothing held out" if lengths.held_out is None else f"{len(lengths.held_out.chosen):,} pairs held out"
    return [
        f"estimate for {plan.gpus} x {gpu.words} ({gpu.flops / 1e12:,.0f} TFLOP/s of dense bf16, "
        f"{gpu.bandwidth / 1e12:.2f} TB/s, by its data sheet)",
        f"  data: {lengths.source}: {_counts(lengths.training)}; {held_out}",
        f"  model: {setting.shape.source}: {entries:,} parameters, {trained:,} of them trained; "
        f"{policy.layout} batches",
        f"  assumed: {worst:.0%} to {best:.0%} of the peak in hours; {_who_holds_it(setting)}",
    ]


def _who_holds_it(setting: Setting) -> str:
    held = f"shared by {setting.shards} GPUs" if setting.shards > 1 else "each GPU holds the whole model"
    context = setting.config.context_parallel
    return held if context == 1 else f"{held}; each batch split over {context}"


def _counts(responses: Responses) -> str:
    prompt, response = responses.prompts.lengths, responses.completions.lengths[responses.to_run]
    kind = "pairs" if responses.present is None else "rows"
    return (
        f"{len(prompt):,} prompts of {prompt.mean():.0f} tokens, {len(response):,} responses of {response.mean():.0f}, "
        f"{len(responses.chosen):,} {kind}"
    )


def _table(estimates: dict[str, Estimate]) -> list[str]:
    rows = [("stage", "tokens", "of LM head", "PFLOP", "hours", "GB a GPU", "")]
    for name, found in estimates.items():
        computes = found.work.tokens > 0
        rows.append(
            (
                name,
                f"{found.work.tokens:,}" if computes else "-",
                f"{found.work.head_tokens:,}" if computes else "-",
                f"{found.flops / 1e15:,.3g}" if computes else "-",
                _hours(found.seconds) if computes else "-",
                f"{sum(found.memory.values()) / 1e9:.1f}" if found.memory else "-",
                found.note,
            )
        )
    seconds = [sum(part) for part in zip(*(found.seconds for found in estimates.values()), strict=True)]
    tokens, flops = (
        sum(values) for values in zip(*((f.work.tokens, f.flops) for f in estimates.values()), strict=True)
    )
    rows.append(("all", f"{tokens:,}", "", f"{flops / 1e15:,.3g}", _hours((seconds[0], seconds[1])), "", ""))
    widths = [max(len(row[i]) for row in rows) for i in range(6)]
    return ["  " + "  ".join(_padded(row, widths)).rstrip() for row in rows]


def _padded(row: Sequence[str], widths: Sequence[int]) -> list[str]:
    return [
        row[0].ljust(widths[0]),
        *(cell.rjust(width) for cell, width in zip(row[1:6], widths[1:], strict=True)),
        row[6],
    ]


def _hours(seconds: tuple[float, float]) -> str:
    return " to ".join(f"{part / 3600:.2g}" if part < 36_000 else f"{part / 3600:,.0f}" for part in seconds)


def _memory_lines(setting: Setting, estimates: dict[str, Estimate]) -> list[str]:
    """Where it does not fit, and from how many GPUs on the training does."""
    room = setting.gpu.memory
    lines = []
    if "train" in estimates:
        parts = ", ".join(f"{name} {size / 1e9:.1f}" for name, size in estimates["train"].memory.items())
        lines.append(f"  train, GB on each GPU: {parts}")
    over = [name for name, found in estimates.items() if not fits(found.memory, room)]
    kept = f"{FREE:.0%} of {room / 1e9:.0f} GB left free"
    lines.append(f"  does not fit: {', '.join(over)}, with {kept}" if over else f"  fits, with {kept}")
    if "train" in estimates:
        lines.append(f"  {_smallest(setting, estimates['train'])}")
    return lines


def _smallest(setting: Setting, estimate: Estimate) -> str:
    """The least number of GPUs, a power of two, on which training fits."""
    config, gpu = setting.config, setting.gpu
    tokens, head_tokens = estimate.work.largest
    shards = config.context_parallel
    while shards <= MOST_GPUS:
        memory = training_memory(config, setting.policy, tokens, head_tokens, room=gpu.memory, shards=shards)
        if fits(memory, gpu.memory):
            return (
                "training fits on one GPU"
                if shards == 1
                else f"training fits from {shards} GPUs on, with shard_over all"
            )
        shards *= 2
    return "training fits on no number of GPUs: lower optim.tokens_per_batch, or set model.gradient_checkpointing"


def _caveats(setting: Setting) -> list[str]:
    lines = ["  hours and bytes are arithmetic, not measurements; stages done before count too"]
    if setting.gpus > 8:
        lines.append("  more than 8 GPUs stand in several machines, whose network is not in the hours")
    return lines
