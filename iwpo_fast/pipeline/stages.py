"""The stages, each a function from files to files that returns numbers for the manifest."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.numpy import load_file

from iwpo_fast.config import RunConfig
from iwpo_fast.data import Pairs
from iwpo_fast.data.rows import Rows, contents
from iwpo_fast.files import save_json, save_tensors, written_aside
from iwpo_fast.importance import (
    PairText,
    PairWeights,
    pair_rewards,
    pair_weights,
    save_histogram,
    strength_of,
    weight_report,
)
from iwpo_fast.models import load_policy, load_tokenizer
from iwpo_fast.pipeline.checks import check_backend, check_data, check_model, check_reward_model, read_data
from iwpo_fast.pipeline.context import Context
from iwpo_fast.pipeline.evaluation import evaluate_held_out
from iwpo_fast.pipeline.folder import PipelineFolder
from iwpo_fast.pipeline.manifest import content_of
from iwpo_fast.pipeline.rows_file import write_rows
from iwpo_fast.pipeline.scores import scores_from_data, scores_from_features, scores_from_model
from iwpo_fast.pipeline.soft_labels import leaves_room, weight_settings
from iwpo_fast.rewards import Clusters, PairTable, fit_clusters
from iwpo_fast.rewards.features import features_key
from iwpo_fast.training import train

Result = dict[str, Any]

# Settings of the data that say how texts become tokens, not which texts there are.
TOKENS = ("max_length", "truncation", "add_eos", "chat_template")


@dataclass(frozen=True)
class Stage:
    """One step of the pipeline.

    Attributes:
        name: what it is called on the command line.
        what: what it does, for the user.
        needs: stages whose files it reads.
        settings: the part of the configuration that its files depend on, and the content of outside inputs.
        outputs: files it writes; those that do not apply are absent.
        run: does it.
        check: raises ValueError for what would stop it late and can be told early; nothing of this call is there yet.
        everywhere: all ranks take part, not the first alone.
        together: what all ranks do before the first works alone, which may not run a model that they share.
        folder: a folder of its own that can be gone on with if the inputs are the same, and is removed if they differ.
    """

    name: str
    what: str
    needs: tuple[str, ...]
    settings: Callable[[RunConfig], dict[str, Any]]
    outputs: Callable[[PipelineFolder], list[Path]]
    run: Callable[[Context], Result]
    check: Callable[[Context], None] | None = None
    everywhere: bool = False
    together: Callable[[Context], object] | None = None
    folder: Callable[[PipelineFolder], Path] | None = None


def prepare(context: Context) -> Result:
    """Read the data, bring it into one form and hold rows out; make the built-in model, if that is what is trained."""
    source = read_data(context.config)
    if context.config.model.path == "tiny":
        _make_tiny_model(context, source.train)
    write_rows(context.folder.prepared, source.train, source.train.columns)
    if source.evaluation is not None:
        write_rows(context.folder.held_out, source.evaluation, source.evaluation.columns)
    held_out = 0 if source.evaluation is None else len(source.evaluation)
    return {"training_rows": len(source.train), "held_out_rows": held_out}


def reference(context: Context) -> Result:
    """One pass of the frozen model: log-probs of every completion, and features of prompts and completions."""
    tuning = context.config.rewards.tuning
    if tuning is not None and context.world.is_main:
        context.new_policy(tuning.lora)  # an adapter that does not fit is refused here, not after the pass
    features = context.features
    if context.held_out is not None:
        context.features_of(context.held_out)
    table = features.table
    # The table names the pass, so that what reads it is done again when the features are others.
    source = features_key(context.policy, context.pairs, context.fingerprint)
    columns = {name: torch.from_numpy(values) for name, values in vars(table).items()}
    if context.world.is_main:
        save_tensors(context.folder.table, columns, {"features": source})
    return {"pairs": len(table), "prompts": len(features.prompt), "responses": len(features.response)}


def cluster(context: Context) -> Result:
    """Group the prompts."""
    features, table = context.features, _table(context)
    settings = context.config.clusters
    counts = table.pairs_per_prompt(len(features.prompt))
    clusters = fit_clusters(features.prompt, counts, settings, seed=context.config.seed)
    clusters.save(context.folder.clusters)
    assigned = clusters.assign(features.prompt)
    save_tensors(context.folder.prompt_clusters, {"cluster": torch.from_numpy(assigned)})
    sizes = np.bincount(assigned[table.prompt], minlength=clusters.count).tolist()
    print(f"{clusters.count} clusters of {', '.join(f'{size:,}' for size in sizes)} pairs")
    return {"clusters": clusters.count, "pairs_per_cluster": sizes}


def reward(context: Context) -> Result:
    """Score every completion, by heads that never saw its prompt or by others, and calibrate the scores."""
    table, prompt_cluster = _table(context), _prompt_cluster(context)
    source = context.config.rewards.source
    if source == "columns":
        scores = scores_from_data(context, table, prompt_cluster)
    elif source == "model":
        scores = scores_from_model(context, table, prompt_cluster)
    else:
        scores = scores_from_features(context, table, prompt_cluster)
    for line in scores.report.lines():
        print(line)
    arrays = {name: value for name, value in vars(scores).items() if isinstance(value, np.ndarray)}
    save_tensors(context.folder.rewards, {name: torch.from_numpy(value) for name, value in arrays.items()})
    report = scores.report.to_json()
    save_json(context.folder.reward_report, report)
    shutil.rmtree(context.folder.tuned, ignore_errors=True)
    return report


def ready_to_reward(context: Context) -> None:
    """Features at hand, and the device free for models that score or learn to."""
    if context.config.rewards.source == "features":
        _ = context.features
    context.release_policy()


def weigh(context: Context) -> Result:
    """Turn rewards into one weight and one soft label per pair, beside the texts."""
    table, settings = _table(context), weight_settings(context)
    arrays = load_file(context.folder.rewards)
    members = arrays["members_calibrated"]
    rewards = pair_rewards(arrays["calibrated"], arrays["trust"], table, _prompt_cluster(context), members)
    weights = pair_weights(rewards, settings, seed=context.config.seed)
    pairs, rows = context.pairs, context.rows
    row = _row_of_pairs(pairs)
    report = weight_report(weights, rewards, texts=lambda pair: _text(rows, int(row[pair])))
    for line in report.lines():
        print(line)
    save_json(context.folder.weight_report, report.to_json())
    save_histogram(context.folder.histogram, report)
    weights.check(settings)
    columns = _weight_columns(pairs, weights, strength_of(settings) > 0) | {
        "cluster": rewards.cluster,
        "score_chosen": rewards.chosen,
        "score_rejected": rewards.rejected,
        "scores_chosen": members[table.chosen],
        "scores_rejected": members[table.rejected],
        "raw_score_chosen": arrays["raw"].mean(1)[table.chosen],
        "raw_score_rejected": arrays["raw"].mean(1)[table.rejected],
    }
    write_rows(context.folder.weighted, rows.take(row), _kept_columns(rows, row) | columns)
    return {
        "pairs": len(pairs),
        "noise": rewards.noise,
        "tau": weights.tau,
        "ess": weights.ess,
        "cluster_ess": weights.cluster_ess.tolist(),
        "soft_labels": strength_of(settings),
        "mean_label_smoothing": float(weights.label_smoothing.mean()),
    }


def train_weighted(context: Context) -> Result:
    """`iwpo train` on the weighted pairs."""
    context.release_policy()
    summary = train(context.train_config())
    assert summary is not None
    return asdict(summary) | {"output_dir": context.folder.training.name}


def evaluate(context: Context) -> Result:
    """Held-out accuracy of the trained policy, over all pairs and in each cluster, with the report."""
    held_out = context.held_out
    if held_out is None:
        print("no pairs are held out, so there is nothing to evaluate on")
        return {}
    features = context.features_of(held_out)
    cluster = Clusters.load(context.folder.clusters).assign(features.prompt)[features.table.prompt]
    return evaluate_held_out(context, held_out, cluster)


def _table(context: Context) -> PairTable:
    return PairTable(**load_file(context.folder.table))


def _prompt_cluster(context: Context) -> np.ndarray:
    return load_file(context.folder.prompt_clusters)["cluster"]


def _row_of_pairs(pairs: Pairs) -> np.ndarray:
    assert pairs.row is not None
    return pairs.row


def _weight_columns(pairs: Pairs, weights: PairWeights, soft: bool) -> dict[str, np.ndarray]:
    """Weights multiply those that the data bring; soft labels take the place of theirs."""
    columns = {"weight": weights.weight * pairs.weight}
    if soft:
        columns["label_smoothing"] = weights.label_smoothing
    elif pairs.label_smoothing is not None:
        columns["label_smoothing"] = pairs.label_smoothing
    return columns


def _kept_columns(rows: Rows, row: np.ndarray) -> dict[str, np.ndarray]:
    """Reference log-probs that the data bring."""
    return {name: values[row] for name, values in rows.columns.items() if name.startswith("ref_")}


def _text(rows: Rows, row: int) -> PairText:
    return PairText(*("\n".join(contents(part[row])) for part in (rows.prompt, rows.chosen, rows.rejected)))


def _make_tiny_model(context: Context, rows: Rows) -> None:
    tokenizer = load_tokenizer(context.config.model, rows.texts())
    # It is written on a CPU, whatever it will run on.
    model = replace(
        context.config.model,
        lora=None,
        attention="auto",
        gradient_checkpointing="none",
        offload_activations=False,
        compile=False,
    )
    policy = load_policy(model, tokenizer, seed=context.config.seed, device=torch.device("cpu"))
    with written_aside(context.folder.tiny_model) as aside:
        policy.save(aside, tokenizer)


def _sections(config: RunConfig, *names: str) -> dict[str, Any]:
    settings = asdict(config)
    return {name: settings[name] for name in names}


def _data_settings(config: RunConfig) -> dict[str, Any]:
    data = {name: value for name, value in asdict(config.data).items() if name not in ("cache_dir", "workers", *TOKENS)}
    places = [place for place in (config.data.path, config.data.eval_path) if place]
    made = _sections(config, "model", "seed") if config.model.path == "tiny" else {}
    return {"data": data, "content": [content_of(place) for place in places]} | made


def _pass_settings(config: RunConfig) -> dict[str, Any]:
    data = config.data
    tokens = {name: getattr(data, name) for name in (*TOKENS, "on_prefix_mismatch")}
    content = [content_of(place) for place in (config.model.path, data.chat_template) if place]
    return {"tokens": tokens, "content": content} | _sections(config, "model", "seed")


def _reward_settings(config: RunConfig) -> dict[str, Any]:
    model = config.rewards.model
    return _sections(config, "rewards", "seed") | ({} if model is None else {"content": content_of(model)})


def _files(folder: Path) -> list[Path]:
    return sorted(path for path in folder.rglob("*") if path.is_file())


STAGES = (
    Stage(
        "prepare",
        "bring the data into one form",
        needs=(),
        settings=_data_settings,
        outputs=lambda folder: [folder.prepared, folder.held_out, *_files(folder.tiny_model)],
        run=prepare,
        check=check_data,
    ),
    Stage(
        "reference",
        "log-probs and features of the frozen model",
        needs=("prepare",),
        settings=_pass_settings,
        outputs=lambda folder: [folder.table],
        run=reference,
        check=check_model,
        everywhere=True,
    ),
    Stage(
        "cluster",
        "groups of prompts",
        needs=("reference",),
        settings=lambda config: _sections(config, "clusters", "seed"),
        outputs=lambda folder: [folder.clusters, folder.prompt_clusters],
        run=cluster,
        together=lambda context: context.features,
        check=check_backend,
    ),
    Stage(
        "reward",
        "rewards whose levels can be compared",
        needs=("prepare", "reference", "cluster"),
        settings=_reward_settings,
        outputs=lambda folder: [folder.rewards, folder.reward_report],
        run=reward,
        together=ready_to_reward,
        check=check_reward_model,
        folder=lambda folder: folder.tuned,
    ),
    Stage(
        "weigh",
        "importance weights and soft labels",
        needs=("prepare", "reference", "cluster", "reward"),
        settings=lambda config: _sections(config, "weights", "seed") | {"leaves_room": leaves_room(config)},
        outputs=lambda folder: [folder.weighted, folder.weight_report, folder.histogram],
        run=weigh,
    ),
    Stage(
        "train",
        "optimise the policy",
        needs=("prepare", "weigh"),
        settings=lambda config: _pass_settings(config) | _sections(config, "objective", "optim", "deterministic"),
        outputs=lambda folder: [folder.training / "summary.json", *_files(folder.training / "model")],
        run=train_weighted,
        everywhere=True,
        folder=lambda folder: folder.training,
    ),
    Stage(
        "evaluate",
        "accuracy on held-out pairs",
        needs=("prepare", "cluster", "train"),
        settings=lambda config: _pass_settings(config) | _sections(config, "objective"),
        outputs=lambda folder: [folder.evaluation, folder.report],
        run=evaluate,
        everywhere=True,
    ),
)
