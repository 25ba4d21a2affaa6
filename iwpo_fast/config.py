"""The whole configuration: one tree of dataclasses, the same for YAML files, command-line flags and Python."""

from __future__ import annotations

from dataclasses import dataclass, field, fields, replace
from math import inf, log
from typing import Annotated, Any, Literal, TypeVar

from iwpo_fast.limits import BELOW_ONE, FINITE, FRACTION, NOT_NEGATIVE, POSITIVE, POSITIVE_OR_INFINITE, Limits

SEED = Limits(0, 2**32, high_open=True, words="0 or more and less than 2**32")
"""Seeds that PyTorch, NumPy and scikit-learn all take."""

SHARE = Limits(0, 1, low_open=True)

T = TypeVar("T")
TruncationPolicy = Literal["drop", "truncate_prompt_left", "truncate_completion", "error"]
PrefixMismatchPolicy = Literal["split", "error", "drop"]
PairsFromCandidates = Literal["best_worst", "all", "pareto"]


Preferred = dict[str, str | float | bool | list[str | float | bool]]


@dataclass
class MixedConfig:
    """A data set beside `data.path`, whose other settings it shares.

    Args:
        path: As `data.path`.
        weight: The weights of its pairs are multiplied by it; those of `data.path` are not.
        name: As `data.name`.
        split: As `data.split`.
        columns: As `data.columns`; those of `data.path` do not count here.
        preferred: As `data.preferred`; that of `data.path` does not count here.
        limit: As `data.limit`.
    """

    path: str | list[str]
    weight: Annotated[float, NOT_NEGATIVE] = 1.0
    name: str | None = None
    split: str = "train"
    columns: dict[str, str | None] = field(default_factory=dict)
    preferred: Preferred = field(default_factory=dict)
    limit: Annotated[int, POSITIVE] | None = None


@dataclass
class DataConfig:
    """Where the preference pairs come from and how they become tokens.

    Args:
        path: JSON, JSON Lines, CSV, Parquet or Arrow file, text also as .gz or .zst; a pattern such as data/*.jsonl, a
            list of files, a folder of them or one saved by `datasets`, or a hub id (docs/data.md).
        name: Configuration of a hub data set or of a folder that has several.
        split: Split of a hub data set or of a folder that holds several.
        mix: Further data sets to train on, each with its weight, such as [{path: other.jsonl, weight: 0.5}].
        eval_path: Held-out pairs, in any of the same forms. Without it a part of all data is held out.
        eval_split: Split of `eval_path`; with no `eval_path`, another split of `path`.
        eval_fraction: Fraction of the prompts of `path` held out when no evaluation data is named.
        limit: Use only this many rows of `path`, the first ones; null uses all.
        columns: Which of your columns is which of ours, such as {chosen: good, rejected: bad}, or {first: response_a,
            second: response_b, preferred: winner}; {prompt: instruction+input} joins two, and {system: null} leaves a
            column of ours out.
        preferred: Which values of the column `preferred` mean the first answer, the second or a tie, such as {first:
            model_a, second: model_b, tie: [tie, both bad]} or {first: negative, second: positive, tie: 0}.
        json_columns: Columns whose text is JSON of messages, under our names, such as [prompt, chosen, rejected];
            `auto` finds those in which every text is, and [] leaves all as text, as in data about JSON.
        pairs_from_candidates: The pairs of a row that has scored `candidates` and neither `chosen` nor `rejected`: the
            best against the worst, `all` that differ in score, or `pareto`, one of the upper front of several rewards
            against one of the lowest (docs/candidates.md).
        win_rate_temperature: Scores of candidates become rates of winning against the others of their prompt, with
            score gaps divided by it; null does so only where candidates have lists of scores, at 1
            (docs/systems/capo.md).
        as_chat: A prompt that is plain text becomes the user's message and its responses the assistant's, for
            a model that was trained with a chat template; a dialogue in Anthropic's HH form becomes its turns. `auto`
            does so where the model has a chat template, or other rows are conversations.
        max_length: Longest prompt + completion, in tokens.
        truncation: What happens to a pair longer than `max_length`.
        on_prefix_mismatch: What happens to a row whose prompt's tokens are not the first of prompt + completion:
            `split` moves white space from the prompt's end to the completions, or tokenises the two apart where tokens
            merge still; `drop` leaves it out, also where completions do not continue one prompt as text, which the
            others refuse.
        train_on: Of completions of several turns, the tokens of the assistant alone are trained and others are context,
            or `all` are.
        on_text_left_out: Whether a row is an error if the chat template does not write a message, a tool call or the
            reasoning of the answer, or the run says how many rows it leaves what out of, as it does of other texts.
        chat_template: Path of a Jinja file that replaces the tokenizer's chat template; null keeps it.
        add_eos: End each plain-text completion with the end-of-sequence token.
        cache_dir: Folder for tokenised data and reference log-probs; null takes iwpo_fast in
            $XDG_CACHE_HOME or ~/.cache.
        processes: Processes that tokenise, with the same result whatever their number; `auto` is one for each core, or
            fewer where rows are few.
        workers: Threads that make batches ahead of time; 0 makes each when it is needed, `auto` is 1 on a GPU and 0
            on a CPU.
    """

    path: str | list[str]
    name: str | None = None
    split: str = "train"
    mix: list[MixedConfig] = field(default_factory=list)
    eval_path: str | list[str] | None = None
    eval_split: str | None = None
    eval_fraction: Annotated[float, BELOW_ONE] = 0.05
    limit: Annotated[int, POSITIVE] | None = None
    columns: dict[str, str | None] = field(default_factory=dict)
    preferred: Preferred = field(default_factory=dict)
    json_columns: list[str] | Literal["auto"] = "auto"
    pairs_from_candidates: PairsFromCandidates = "best_worst"
    win_rate_temperature: Annotated[float, POSITIVE] | None = None
    as_chat: bool | Literal["auto"] = False
    max_length: Annotated[int, Limits(2)] = 1024
    truncation: TruncationPolicy = "truncate_prompt_left"
    on_prefix_mismatch: PrefixMismatchPolicy = "split"
    train_on: Literal["assistant", "all"] = "assistant"
    on_text_left_out: Literal["error", "say"] = "error"
    chat_template: str | None = None
    add_eos: bool = True
    cache_dir: str | None = None
    processes: Annotated[int, POSITIVE] | Literal["auto"] = "auto"
    workers: Annotated[int, NOT_NEGATIVE] | Literal["auto"] = "auto"


LATER_SETTINGS = (
    *("pairs_from_candidates", "as_chat", "name", "mix", "preferred", "train_on", "on_text_left_out", "json_columns"),
    "win_rate_temperature",
)
"""Settings of the data that came later; records leave them out where they have their defaults."""


@dataclass
class TinyConfig:
    """Shape of the built-in `tiny` model, a Llama with random weights and a tokenizer trained on your data.

    Args:
        vocab_size: Entries of the byte-level BPE vocabulary.
        hidden_size: Width of the model; a multiple of 32.
        layers: Number of decoder layers.
        heads: Number of attention heads.
    """

    vocab_size: Annotated[int, POSITIVE] = 4096
    hidden_size: Annotated[int, POSITIVE] = 128
    layers: Annotated[int, POSITIVE] = 2
    heads: Annotated[int, POSITIVE] = 4


@dataclass
class LoraConfig:
    """Low-rank adapters instead of full fine-tuning.

    Args:
        rank: Rank of the update matrices.
        alpha: The update is scaled by alpha / rank.
        dropout: Dropout on the input of the adapters.
        target_modules: Names of the adapted linear layers; `all-linear` takes all but the LM head.
        dora: Learn the lengths of a weight's rows apart from their directions, which the update matrices turn (DoRA,
            arXiv 2402.09353).
        rslora: Scale the update by alpha / sqrt(rank), so that it does not shrink with the rank (rsLoRA,
            arXiv 2312.03732).
        modules_to_save: Names of modules that are trained whole and saved beside the adapter, such as [embed_tokens,
            lm_head]. Where head and embedding are one matrix, each becomes a copy of its own.
    """

    rank: Annotated[int, POSITIVE] = 16
    alpha: Annotated[float, POSITIVE] = 32.0
    dropout: Annotated[float, BELOW_ONE] = 0.0
    target_modules: str | list[str] = "all-linear"
    dora: bool = False
    rslora: bool = False
    modules_to_save: list[str] = field(default_factory=list)


@dataclass
class ModelConfig:
    """The policy.

    Args:
        path: Local folder, hub id, or `tiny` (see `tiny`).
        lora: Adapter settings; null trains all weights.
        adapter: Folder of a LoRA adapter on `path`, or of the run that trained it, to start from: what the two are
            together is the reference. Without `lora` this adapter is trained further and saved; with `lora` it is
            merged into the model, on which a new one is trained, and the whole is saved.
        reference: Another model that is the reference, of the same tokens: a folder or hub id. It is held beside the
            policy for the pass over the data alone.
        quantize: `nf4` holds the frozen linear layers under `lora` in 4 bits (QLoRA), except the LM head. Every process
            holds a whole copy (pip install 'iwpo-fast[qlora]').
        batch_layout: `flat` runs sequences end to end, `padded` pads inside the model wrapper, `auto` takes flat
            wherever the model can.
        share_prompts: Run each prompt of a flat batch once for all its completions; `auto` does so on a CPU wherever
            the model can.
        attention: How flat batches compute attention; `auto` takes the first of flash_attn_3, flash_attn_2, varlen,
            sdpa_by_length and eager_by_length that is installed and can do what the model needs (docs/training.md).
        gradient_checkpointing: What the backward pass recomputes, layer by layer, to save memory: `selective` keeps
            what matrix products and attention return and recomputes the cheap rest, `full` keeps the inputs of layers
            and runs each layer once more, about a third more time.
        offload_activations: Keep the inputs of the layers in host memory, with `gradient_checkpointing: full` on a GPU.
        compile: Compile the layers with torch.compile, which takes minutes at the beginning of a run. Compiled layers
            recompute their cheap operations anyway, so `gradient_checkpointing` can be `none` or `full`.
        neftune_alpha: Add noise of up to alpha / sqrt(L d) to every entry of an embedding while training (NEFTune,
            arXiv 2310.05914), L the tokens of the sequence and d the entries; prompts are then not shared.
        precision: Compute type; `auto` is bf16 on a GPU and fp32 on a CPU. Master weights are fp32 either way.
        revision: Revision of a hub model.
        trust_remote_code: Run code that the model brings in its own folder or repository, of its configuration, its
            tokenizer and itself, and of `rewards.model`. Read that code first: it can do whatever you can.
        tiny: Shape of the built-in model.
    """

    path: str = "tiny"
    lora: LoraConfig | None = None
    adapter: str | None = None
    reference: str | None = None
    quantize: Literal["none", "nf4"] = "none"
    batch_layout: Literal["auto", "flat", "padded"] = "auto"
    share_prompts: bool | Literal["auto"] = "auto"
    attention: Literal["auto", "flash_attn_3", "flash_attn_2", "varlen", "sdpa_by_length", "eager_by_length"] = "auto"
    gradient_checkpointing: Literal["none", "selective", "full"] = "none"
    offload_activations: bool = False
    compile: bool = False
    neftune_alpha: Annotated[float, POSITIVE] | None = None
    precision: Literal["auto", "fp32", "bf16"] = "auto"
    revision: str | None = None
    trust_remote_code: bool = False
    tiny: TinyConfig = field(default_factory=TinyConfig)


SYNONYMS = {"dpo": "sigmoid"}
"""Objectives by another name."""


@dataclass
class ObjectiveConfig:
    """The preference objective; docs/objectives.md lists them all.

    Args:
        name: Name of the objective, such as `sigmoid` (DPO, and `dpo` is the same), or a mixture such as {sigmoid: 0.8,
            bco: 0.2, sft: 1.0}.
        beta: Strength of the pull towards the reference; null takes the objective's own default.
        params: Further parameters, such as {gamma: 1.0}; in a mixture with the objective before, {bco.beta: 0.2}.
        label_smoothing: Probability that a label is flipped; a column `label_smoothing` takes its place.
        normalize: Divide the weighted loss by the number of pairs (`count`) or by the sum of weights (`weights`).
        divergence: Divergence from the reference that is penalised (f-DPO, arXiv 2309.16240).
        divergence_alpha: Which of the `alpha` divergences, null for 0.5; 1 is the reverse KL.
    """

    name: str | dict[str, float] = "sigmoid"
    beta: float | None = None
    params: dict[str, float | str] = field(default_factory=dict)
    label_smoothing: Annotated[float, BELOW_ONE] = 0.0
    normalize: Literal["count", "weights"] = "count"
    divergence: Literal["reverse_kl", "forward_kl", "js", "alpha"] = "reverse_kl"
    divergence_alpha: Annotated[float, FINITE] | None = None

    def __post_init__(self) -> None:
        """Give an objective the one name by which files and records know it."""
        if isinstance(self.name, str):
            self.name = SYNONYMS.get(self.name, self.name)
        elif isinstance(self.name, dict):
            self.name = _by_one_name(self.name)


def _by_one_name(mixture: dict[str, float]) -> dict[str, float]:
    named = {SYNONYMS.get(name, name): coefficient for name, coefficient in mixture.items()}
    if len(named) < len(mixture):
        raise ValueError(f"objective.name is {mixture}, which has one objective by two names: give it once.")
    return named


@dataclass
class OptimConfig:
    """Optimiser and schedule.

    Args:
        name: `adamw_8bit` keeps AdamW's two moments in 8 bits each instead of 32, on one device
            (pip install 'iwpo-fast[8bit]').
        lr: Peak learning rate.
        epochs: Passes over the training pairs.
        max_steps: Stop after this many optimiser steps; null runs all epochs.
        pairs_per_step: Pairs of one optimiser step, over all ranks and micro-batches.
        tokens_per_batch: Token budget of one micro-batch. A prompt that the model runs once for both completions counts
            once; a pair that is longer than the budget runs alone.
        max_pairs_per_batch: Cap on the pairs of one micro-batch; null leaves it to the token budget.
        schedule: Decay after the warm-up.
        warmup_fraction: Fraction of all steps over which the learning rate rises.
        min_lr_fraction: The learning rate ends at this fraction of `lr`.
        betas: AdamW's running-average coefficients.
        eps: AdamW's denominator offset.
        weight_decay: Decoupled weight decay of matrices; vectors (norms, biases) have none.
        max_grad_norm: Gradients are scaled down to this global norm; null leaves them alone.
    """

    name: Literal["adamw", "adamw_8bit"] = "adamw"
    lr: Annotated[float, POSITIVE] = 1e-6
    epochs: Annotated[float, POSITIVE] = 1.0
    max_steps: Annotated[int, POSITIVE] | None = None
    pairs_per_step: Annotated[int, POSITIVE] = 32
    tokens_per_batch: Annotated[int, POSITIVE] = 16384
    max_pairs_per_batch: Annotated[int, POSITIVE] | None = None
    schedule: Literal["cosine", "linear", "constant"] = "cosine"
    warmup_fraction: Annotated[float, FRACTION] = 0.1
    min_lr_fraction: Annotated[float, FRACTION] = 0.0
    betas: tuple[Annotated[float, BELOW_ONE], Annotated[float, BELOW_ONE]] = (0.9, 0.95)
    eps: Annotated[float, POSITIVE] = 1e-8
    weight_decay: Annotated[float, NOT_NEGATIVE] = 0.0
    max_grad_norm: Annotated[float, POSITIVE_OR_INFINITE] | None = 1.0


@dataclass
class LogConfig:
    """What is reported, and how often.

    Args:
        every: Optimiser steps between step-lines.
        eval_every: Optimiser steps between evaluations; null evaluates before the first and after the last step.
        trackers: Where metrics go, in addition to `metrics.jsonl`.
        project: Project name for wandb and trackio.
        samples: Held-out prompts that are answered at every evaluation, in `samples/step-N.jsonl`; the first answer is
            shown. The most probable token is taken each time.
        sample_tokens: Tokens of such an answer at most.
    """

    every: Annotated[int, POSITIVE] = 10
    eval_every: Annotated[int, POSITIVE] | None = None
    trackers: list[Literal["tensorboard", "wandb", "trackio"]] = field(default_factory=list)
    project: str = "iwpo_fast"
    samples: Annotated[int, NOT_NEGATIVE] = 0
    sample_tokens: Annotated[int, POSITIVE] = 128


@dataclass
class CheckpointConfig:
    """When the state is saved, and as what the final model.

    Args:
        every: Optimiser steps between checkpoints; null saves only the final one.
        keep: Number of newest checkpoints kept.
        dtype: Type in which the final model is saved: `base` is the one that the model given says in its config.json,
            and leaves an adapter in float32. Training and checkpoints keep float32 either way.
        best: Save the model of the evaluation that was best by this metric of `metrics.jsonl`, and not the last one.
            Every evaluation (`log.eval_every`) has a checkpoint then, and the best is kept beside the newest.
        patience: End the run after so many evaluations in a row that were not better than the best; null ends it after
            the last step alone.
    """

    every: Annotated[int, POSITIVE] | None = 100
    keep: Annotated[int, POSITIVE] = 2
    dtype: Literal["base", "float32", "bfloat16"] = "base"
    best: Literal["eval_loss", "eval_rewards/accuracies", "eval_rewards/margins"] | None = None
    patience: Annotated[int, POSITIVE] | None = None


@dataclass
class CandidateConfig:
    """Completions drawn from the policy as it is before training, as further candidates of the training prompts.

    Args:
        per_prompt: How many are drawn for each prompt; 0 draws none.
        temperature: Divides the logits.
        top_p: Draw among the most probable tokens that have this probability together; 1 draws among all.
        max_new_tokens: A completion that has not ended by then is cut. It must leave room for a prompt in
            `data.max_length`.
        tokens_per_batch: Token budget of one batch, each completion with its prompt and `max_new_tokens`; a single one
            that is longer runs alone.
        backend: `transformers`, or `vllm` in a single process on a GPU (pip install 'iwpo-fast[vllm]'); `auto` takes
            vllm where it is installed and can be used.
    """

    per_prompt: Annotated[int, NOT_NEGATIVE] = 0
    temperature: Annotated[float, POSITIVE] = 1.0
    top_p: Annotated[float, SHARE] = 1.0
    max_new_tokens: Annotated[int, POSITIVE] = 256
    tokens_per_batch: Annotated[int, POSITIVE] = 16384
    backend: Literal["auto", "transformers", "vllm"] = "auto"


@dataclass
class ClusterConfig:
    """Groups of prompts whose rewards are compared with one another (MCRM).

    Args:
        count: Number of clusters; 1 puts all prompts into one.
        method: `kmeans` puts like prompts together, whatever their labels; `mixture` starts there and then learns
            gates of prompts together with rewards, from the labels, for `rewards.source: features`. It stays at
            k-means where held-out labels are not predicted better. What it was worth: docs/iwpo.md.
        backend: Where k-means runs; `auto` takes cuml on an NVIDIA GPU, flash-kmeans on another, else sklearn.
        min_pairs: Clusters with fewer pairs merge into the nearest.
        fit_prompts: Prompts that centroids are fitted on, drawn at random; all prompts are assigned.
    """

    count: Annotated[int, POSITIVE] = 8
    method: Literal["kmeans", "mixture"] = "kmeans"
    backend: Literal["auto", "cuml", "flash-kmeans", "sklearn"] = "auto"
    min_pairs: Annotated[int, POSITIVE] = 256
    fit_prompts: Annotated[int, POSITIVE] = 200_000


@dataclass
class TuningConfig:
    """Fine-tuning of the model whose features rewards are read from: one adapter for each fold.

    Args:
        lora: Adapter.
        optim: Optimiser and schedule; an epoch is one over the pairs of the other folds.
    """

    lora: LoraConfig = field(default_factory=LoraConfig)
    optim: OptimConfig = field(default_factory=lambda: OptimConfig(lr=1e-4))


@dataclass
class CategoryConfig:
    """Ordered categories of `rewards.heads: dprm`, made of the scores of the data.

    Args:
        count: The most categories; scores of more different values fall into as many bins of one width.
        prior: Votes that the distribution of all scores counts as, beside the scores that a response has itself.
        smoothing: Share of the mass of a category that moves to those beside it.
        loss: `transport` is what it costs to move the mass of one distribution to where the other has it;
            `cross_entropy` does not know which categories are near one another.
        cost_exponent: The cost of moving is the distance of the values to this power, for `loss: transport`; 1 has a
            closed form, others take Sinkhorn's iterations.
    """

    count: Annotated[int, Limits(2)] = 6
    prior: Annotated[float, NOT_NEGATIVE] = 1.0
    smoothing: Annotated[float, BELOW_ONE] = 0.1
    loss: Literal["transport", "cross_entropy"] = "transport"
    cost_exponent: Annotated[float, POSITIVE] = 1.0


@dataclass
class PessimismConfig:
    """How rewards are lowered where little is known of them (docs/systems/braid.md).

    Args:
        form: `bonus` takes off how far the features of a response are from what heads learnt from; `minimum` takes the
            least reward among the members of the ensemble.
        scale: Log-odds that are taken off per unit of the bonus, for `form: bonus`; 2 is about one standard error of
            the reward, and 0 takes nothing off.
        ridge: Added to the squares of the pairs' differences, for `form: bonus`; `auto` takes what the penalty of the
            heads amounts to.
    """

    form: Literal["bonus", "minimum"] = "bonus"
    scale: Annotated[float, NOT_NEGATIVE] = 2.0
    ridge: Annotated[float, POSITIVE] | Literal["auto"] = "auto"


@dataclass
class RewardConfig:
    """Rewards: heads on frozen features, one shared vector plus a residual per cluster, then calibration (MCRM).

    Args:
        source: `features` learns heads on the frozen model's features; `columns` takes the data's `score_chosen` and
            `score_rejected`, and `model` those of a reward model, on any scale, and only clusters and calibrates;
            `iwpo` takes the calibrated scores of a reward model that another run left in `rewards/reward_model`.
        model: Folder or hub id of a sequence classifier with one label, for `source: model`; folder of a reward model
            of another run, for `source: iwpo`.
        tuning: Fine-tune the model under the heads, for `source: features`; null leaves it frozen. It costs a training
            for each fold, on one device, so take two folds.
        likelihood: The mean log-prob of a response's tokens under the frozen model is a feature of it, beside hidden
            states, for `source: features`. `auto` takes it unless `tuning` is set, because it helps less the more the
            hidden states are tuned (docs/iwpo.md).
        ridge: Penalty on the shared vector, for features scaled to a mean square norm of 1; `auto` chooses it by
            cross-validation.
        residual: Penalty on each cluster's residual; `auto` chooses it by cross-validation, null leaves residuals out.
        heads: `linear`; `mlp` puts a small network on the same features beside each linear head, of a width and decay
            that cross-validation chooses; `auto` does so where held-out labels are predicted better by more than a
            standard error, and not with `tuning` or `overlap`, which are for linear heads alone; `gpm` embeds responses
            so that scores of pairs may be cyclic (docs/systems/gpm.md); `dprm` learns from the scores of the data how
            a response would be graded, as a distribution (docs/systems/dprm.md).
        preference_dimension: Dimensions of the embeddings of `heads: gpm`, an even number; with 2, and one of them the
            same for all responses, it is a Bradley-Terry reward.
        categories: Of the grades that `heads: dprm` tells.
        centring: Penalty on the squared mean reward of a pair, which fixes the level of rewards.
        overlap: Weight of the surrogate for the overlap of chosen and rejected rewards inside a cluster.
        folds: Parts, by prompt, each scored by a model that never saw it; 1 scores all pairs with a model that saw all.
        ensemble: Bootstrapped heads whose rewards are averaged; they are also the family for e-DPO.
        calibration: Turn rewards into log-odds, by centre and slope of each cluster on unseen pairs; without it the raw
            rewards are used, unclipped and fully trusted.
        calibration_strength: How strongly each cluster's slope is pulled towards the pooled slope, in pairs.
        max_reward: Calibrated rewards are clipped to this size, before pessimism.
        pessimism: Lower calibrated rewards where little is known of them, for `source: features`; null does not.
    """

    source: Literal["features", "columns", "model", "iwpo"] = "features"
    model: str | None = None
    tuning: TuningConfig | None = None
    likelihood: bool | Literal["auto"] = "auto"
    ridge: Annotated[float, POSITIVE] | Literal["auto"] = "auto"
    residual: Annotated[float, POSITIVE] | Literal["auto"] | None = "auto"
    heads: Literal["linear", "mlp", "auto", "gpm", "dprm"] = "auto"
    preference_dimension: Annotated[int, Limits(2)] = 4
    categories: CategoryConfig = field(default_factory=CategoryConfig)
    centring: Annotated[float, NOT_NEGATIVE] = 0.01
    overlap: Annotated[float, NOT_NEGATIVE] = 0.0
    folds: Annotated[int, POSITIVE] = 4
    ensemble: Annotated[int, POSITIVE] = 4
    calibration: bool = True
    calibration_strength: Annotated[float, NOT_NEGATIVE] = 200.0
    max_reward: Annotated[float, POSITIVE_OR_INFINITE] = 5.0
    pessimism: PessimismConfig | None = None


EVEN = 0.99
"""Effective sample size, as a fraction of the pairs, from which weights are not worth a temperature: all are 1."""


@dataclass
class ExperimentalConfig:
    """Settings of weights that measured no better than the defaults, or worse; docs/experimental.md says how.

    Args:
        method: `density_ratio` and `rejection` weigh by how well the rewards explain the label (arXiv 2405.18686), in
            the place of `irpss`. `madpo` sharpens labels up to a margin (arXiv 2510.05342), `selective` keeps the pairs
            whose labels rewards from other pairs explain best (after arXiv 2502.09650): docs/systems/rivals.md.
        ratio_scale: Risk, in nats, over which the weight of `density_ratio` falls by a factor e; the unit of risk of
            `rejection`.
        ratio_alpha: Order of the divergence of `rejection`; at 3 the weight falls linearly with the risk, to 0.
        rejected_exponent: How much of the rejected completion's reward enters the weight of `irpss`. It needs a number
            for `tau` or `ess_target`.
        baseline: What a reward is compared with by `irpss`: `cluster` its cluster alone, `group` all candidates of its
            prompt, `shrunk` these as far as levels of prompts differ by more than chance; best with four or more.
        selection: A chosen completion has won a comparison, so that good ones are there too often: `irpss` divides by
            how often such a one wins, against the responses of its `cluster` or the `candidates` of its prompt. It
            needs a number for `tau` or `ess_target`.
        madpo_factor: Largest factor by which `madpo` sharpens a label's log-odds, and blunts those of clear ones; 1 is
            DPO.
        madpo_turn: Reward gap, in log-odds, from which `madpo` blunts; its author's code has log 999.
        madpo_sharpness: How sharply it turns there.
        selected_share: Share of the pairs of each cluster that `selective` keeps.
    """

    method: Literal["density_ratio", "rejection", "madpo", "selective"] | None = None
    ratio_scale: Annotated[float, POSITIVE] = 1.0
    ratio_alpha: Annotated[float, Limits(1, low_open=True)] = 3.0
    rejected_exponent: float = 0.0
    baseline: Literal["cluster", "group", "shrunk"] = "cluster"
    selection: Literal["none", "cluster", "candidates"] = "none"
    madpo_factor: Annotated[float, Limits(1)] = 2.0
    madpo_turn: Annotated[float, POSITIVE] = log(0.999 / 0.001)
    madpo_sharpness: Annotated[float, POSITIVE] = 1.0
    selected_share: Annotated[float, Limits(0, 1, low_open=True)] = 0.5


Arm = Literal["dpo", "weights", "labels", "both"]
WeightForm = Literal["cautious", "strong", "off"]
FORMS: dict[WeightForm, dict[str, Any]] = {
    "cautious": {
        "method": "none",
        "tau": "ess",
        "gamma": 0.0,
        "ess_target": "noise",
        "soft_labels": "posterior",
        "preferred_pairs": 1,
    },
    "strong": {
        "method": "irpss",
        "tau": 2.0,
        "gamma": 2.0,
        "ess_target": "noise",
        "soft_labels": 0.75,
        "preferred_pairs": 0,
    },
    "off": {
        "method": "none",
        "tau": "ess",
        "gamma": 0.0,
        "ess_target": "noise",
        "soft_labels": 0.0,
        "preferred_pairs": 0,
    },
}
"""What each form puts in the place of `auto`."""


@dataclass
class WeightConfig:
    """Importance weights and soft labels from calibrated rewards (IRPSS). `form` sets whatever is `auto`.

    Args:
        form: `cautious` takes every label as far as label and rewards agree, draws a preferred pair for each prompt
            where there are candidates, and leaves weights at 1; `strong` weighs at `tau: 2`, `gamma: 2` and softens
            labels by three quarters: better where rewards can be trusted, and worse than DPO where they mislead; `off`
            is plain DPO. What each was worth: docs/iwpo.md.
        method: `irpss` weighs pairs by importance; `none` gives every pair weight 1, and by itself leaves labels alone.
            With the form `cautious`, `auto` is `irpss` where any setting is given that weights read, such as `tau`.
        tau: Temperature of the target policy, reference * exp(reward / tau), for weights and for `preferred_pairs`;
            `ess` takes the smallest that keeps the effective sample size of every large cluster above `ess_target`, and
            1 for `preferred_pairs`.
        gamma: Sharpness of the probability that the chosen completion is the better one; 0 leaves it out. It needs a
            number for `tau` or `ess_target`.
        ess_target: Effective sample size, as a fraction of the pairs, for `tau: ess`. `noise` takes it from how far the
            members of the ensemble disagree: the more, the smaller, and 1 where they agree; 0.9 without an ensemble.
            From 0.99 on all weights are 1.
        truncate: Weights above this multiple of the mean are cut to it, before the mean is set to 1 again.
        defensive: Share of uniform weights mixed in.
        soft_labels: Label smoothing of a pair that the rewards find fully mislabelled; 0 leaves labels alone, as `auto`
            does where the data bring label_smoothing, where the objective cannot smooth labels or does so already, and
            with another method than `irpss`. `posterior` takes the probability that a label is wrong, given the label
            and the rewards; `grades` that with which `rewards.heads: dprm` expects the rejected completion to be
            graded higher.
        relative_variance: How far `soft_labels: posterior` and `preferred_pairs` doubt the rewards: mean square of the
            error of a reward gap over the mean square of the gaps. 0 believes the rewards alone, as distillation does;
            infinity the labels alone, as DPO does.
        preferred_pairs: Pairs that are drawn for each prompt among all its candidates, labelled or not, and trained on
            beside the labelled ones (docs/candidates.md). `auto` draws none where no prompt has more than two
            responses, where the data bring reference log-probs, and where it would leave soft labels out.
        opponent: What the preferred sample of a drawn pair is compared with: another candidate `uniform`ly, as often as
            it was drawn, or by `importance`, as the preferred sample itself.
        proposal_correction: How far importance corrects for the temperature and top-p that candidates were drawn with:
            0 not at all, 1 fully.
        realisation: Weights stay weights, or become counts by systematic `resampling`.
        min_ess: An effective sample size below this fraction of the pairs, over all or in a large cluster, is refused.
        force: Go on despite a low effective sample size.
        experimental: What measured no better: other formulas and baselines (docs/experimental.md).
    """

    form: WeightForm = "cautious"
    method: Literal["auto", "irpss", "none"] = "auto"
    tau: Annotated[float, POSITIVE_OR_INFINITE] | Literal["auto", "ess"] = "auto"
    gamma: Annotated[float, NOT_NEGATIVE] | Literal["auto"] = "auto"
    ess_target: Annotated[float, SHARE] | Literal["auto", "noise"] = "auto"
    truncate: Annotated[float, Limits(1, infinite=True)] = 5.0
    defensive: Annotated[float, FRACTION] = 0.0
    soft_labels: Annotated[float, BELOW_ONE] | Literal["auto", "posterior", "grades"] = "auto"
    relative_variance: Annotated[float, Limits(0, infinite=True)] = 1.0
    preferred_pairs: Annotated[int, NOT_NEGATIVE] | Literal["auto"] = "auto"
    opponent: Literal["uniform", "importance"] = "uniform"
    proposal_correction: Annotated[float, FRACTION] = 0.0
    realisation: Literal["weighting", "resampling"] = "weighting"
    min_ess: Annotated[float, FRACTION] = 0.1
    force: bool = False
    experimental: ExperimentalConfig = field(default_factory=ExperimentalConfig)

    def resolved(self) -> WeightConfig:
        """With what the form says in the place of every `auto`."""
        values = dict(FORMS[self.form])
        if self.form == "cautious" and self._sets_weights():
            values["method"] = "irpss"
        if self.method == "none" or self.experimental.method is not None:
            values |= {"soft_labels": 0.0, "preferred_pairs": 0}
        if self.relative_variance == inf:
            values["preferred_pairs"] = 0
        return replace(self, **{name: value for name, value in values.items() if getattr(self, name) == "auto"})

    def _sets_weights(self) -> bool:
        """Whether a setting is given that only weights read."""
        plain = WeightConfig()
        names = ("tau", "gamma", "ess_target", "truncate", "defensive", "realisation", "min_ess", "force")
        return any(getattr(self, name) != getattr(plain, name) for name in (*names, "experimental"))

    @property
    def formula(self) -> Literal["irpss", "density_ratio", "rejection", "madpo", "selective", "none"]:
        """The method, or the experimental one that takes its place."""
        method = self.resolved().method
        assert method != "auto"
        return self.experimental.method or method


@dataclass
class ReferenceSyncConfig:
    """A reference that follows the policy (TR-DPO, arXiv 2404.09656).

    Args:
        alpha: Share of the policy in what the reference becomes; the rest is what it was. An adapter takes 1 alone.
        steps: Optimiser steps between two moves.
    """

    alpha: Annotated[float, SHARE] = 0.6
    steps: Annotated[int, POSITIVE] = 512


@dataclass
class DataShapeConfig:
    """What an estimate takes the data to be where they are not here.

    Args:
        prompts: Different prompts, those held out among them unless `data.eval_path` or `data.eval_split` names others.
        prompt_tokens: Tokens of every prompt.
        response_tokens: Tokens of every response.
        responses: Responses to each prompt.
        held_out_prompts: Prompts of the evaluation data that `data.eval_path` or `data.eval_split` names.
    """

    prompts: Annotated[int, POSITIVE]
    prompt_tokens: Annotated[int, POSITIVE]
    response_tokens: Annotated[int, POSITIVE]
    responses: Annotated[int, Limits(2)] = 2
    held_out_prompts: Annotated[int, NOT_NEGATIVE] = 0


@dataclass
class PlanConfig:
    """What a dry run estimates: tokens, memory and hours of every stage on GPUs that need not be here (docs/plan.md).

    Args:
        on: Kind of GPU; null estimates nothing.
        gpus: How many of them; `shard_over` says whether they hold the model together.
        utilisation: Assumed share of the peak arithmetic that a run gets, at worst and at best.
        data: What the data are taken to be where they are a hub id that is not here; null reads them.
        model: The config.json of the model where it is not here, such as {model_type: mistral, hidden_size: 4096}.
    """

    on: Literal["a100", "h100", "h200", "b200", "l40s", "mi300x"] | None = None
    gpus: Annotated[int, POSITIVE] = 1
    utilisation: tuple[Annotated[float, SHARE], Annotated[float, SHARE]] = (0.3, 0.5)
    data: DataShapeConfig | None = None
    model: dict[str, str | float | bool] | None = None


@dataclass
class TrainConfig:
    """Train on preference pairs: tokenise, compute reference log-probs, optimise, evaluate, save.

    Running the same command again goes on from the last checkpoint in `output_dir`.

    Args:
        data: Preference pairs.
        model: Policy.
        objective: Loss.
        reference_sync: A reference that moves with the policy; null leaves it what it was before the first step.
        optim: Optimiser.
        log: Reports.
        checkpoint: Checkpoints.
        output_dir: Folder of the run: configuration, metrics, checkpoints, final model.
        seed: Seed of data order, initialisation and dropout.
        device: `auto`, `cpu`, `cuda`, ...
        shard_over: Number of processes that hold one copy of weights, gradients and optimiser state between them
            (FSDP2); `all`, or `node` for those of each machine (HSDP). With 1 every process holds a whole copy.
        context_parallel: Number of neighbouring processes that compute each batch together, every one of them a part of
            each sequence (context parallelism), for pairs too long for one.
        deterministic: Ask PyTorch for deterministic algorithms on a GPU; a CPU run always is.
        self_test: Before the first step, check on some pairs that policy and reference agree on every token, and on up
            to 2,000 that reference log-probs in the data are those of the model.
        dry_run: Validate everything and print the plan, but do not train.
        push_to_hub: Repository of the Hugging Face hub that the saved model is sent to, with its card; null sends
            nothing anywhere. One that is not there yet is made, and is private. A finished run sends it when it is run
            again.
        plan: What a dry run estimates.
    """

    data: DataConfig
    model: ModelConfig = field(default_factory=ModelConfig)
    objective: ObjectiveConfig = field(default_factory=ObjectiveConfig)
    reference_sync: ReferenceSyncConfig | None = None
    optim: OptimConfig = field(default_factory=OptimConfig)
    log: LogConfig = field(default_factory=LogConfig)
    checkpoint: CheckpointConfig = field(default_factory=CheckpointConfig)
    output_dir: str = "runs/train"
    seed: Annotated[int, SEED] = 0
    device: str = "auto"
    shard_over: Annotated[int, POSITIVE] | Literal["node", "all"] = 1
    context_parallel: Annotated[int, POSITIVE] = 1
    deterministic: bool = False
    self_test: bool = True
    dry_run: bool = False
    push_to_hub: str | None = None
    plan: PlanConfig = field(default_factory=PlanConfig)


@dataclass
class RunConfig(TrainConfig):
    """Importance-weighted preference optimisation, from pairs to report, in stages that are kept and resumed.

    prepare, sample (if `candidates.per_prompt` is set), reference, cluster, reward, weigh, train, evaluate. Running the
    same command again goes on where the last one stopped; a stage whose inputs and settings have not changed is
    skipped.

    Args:
        candidates: Completions drawn from the policy before training.
        clusters: Groups of prompts.
        rewards: Where rewards come from.
        weights: What becomes of them.
        arms: Parts of the method to train by themselves beside this run, from its rewards, and to compare on its
            held-out pairs: `dpo`, the objective on the pairs as they are, with which the others are compared;
            `weights` between pairs alone, those of the form `strong` where the run has none; posterior `labels` alone;
            `both` of these.
        rounds: Times to go through it all, in output_dir/round-1, round-2, ...: each round draws from the model that
            the one before trained, which is its reference too, and trains it further; needs `candidates.per_prompt`.
    """

    candidates: CandidateConfig = field(default_factory=CandidateConfig)
    clusters: ClusterConfig = field(default_factory=ClusterConfig)
    rewards: RewardConfig = field(default_factory=RewardConfig)
    weights: WeightConfig = field(default_factory=WeightConfig)
    arms: list[Arm] = field(default_factory=list)
    rounds: Annotated[int, POSITIVE] = 1
    output_dir: str = "runs/iwpo"


def dataclass_from(config: type[T], settings: object) -> T:
    """A configuration from what has its fields and perhaps others, such as that of a training from a pipeline's."""
    return config(**{field.name: getattr(settings, field.name) for field in fields(config)})  # type: ignore[arg-type]
