"""Settings of the commands beside `preview`, `train` and `run`, whose settings are in `config.py`."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Annotated, Literal

from iwpo_fast.config import CandidateConfig, PairsFromCandidates, Preferred, PrefixMismatchPolicy
from iwpo_fast.limits import NOT_NEGATIVE, POSITIVE, SEED, SHARE, Limits

ANSWERED = Limits(0, low_open=True, words="positive (answers.per_prompt 0 draws no answers)")


@dataclass
class ScoredDataConfig:
    """What is scored: pairs, prompts with a completion, conversations, or prompts with candidates.

    Args:
        path: As of `iwpo train` (docs/data.md).
        name: Configuration of a hub data set or of a folder that has several.
        split: Split of a hub data set or of a folder that holds several.
        limit: Use only this many rows of `path`, the first ones; null uses all.
        columns: Which of your columns is which of ours, such as {completion: answer}; {prompt: instruction+input} joins
            two, and {system: null} leaves a column of ours out.
        json_columns: As of `iwpo train`.
        as_chat: As of `iwpo train`; as in the run that made the reward model.
        on_prefix_mismatch: What happens to a row whose prompt's tokens are not the first of prompt + completion; `drop`
            leaves it without a score, also where completions do not continue one prompt as text.
        on_text_left_out: Whether a row is an error if the chat template, which is that of the reward model, does not
            write a message, a tool call or the reasoning of the answer, or that is said; null does as the run that made
            the reward model did.
        cache_dir: Folder for features, so that a killed call goes on where it stopped; null keeps none.
    """

    path: str | list[str]
    name: str | None = None
    split: str = "train"
    limit: Annotated[int, POSITIVE] | None = None
    columns: dict[str, str | None] = field(default_factory=dict)
    json_columns: list[str] | Literal["auto"] = "auto"
    as_chat: bool | Literal["auto"] = False
    on_prefix_mismatch: PrefixMismatchPolicy = "split"
    on_text_left_out: Literal["error", "say"] | None = None
    cache_dir: str | None = None


@dataclass
class ScoreConfig:
    """Score completions by the reward model that `iwpo run` left in `rewards/reward_model`, or a policy's reward head.

    Rows are written with calibrated scores in log-odds (score_chosen and score_rejected, score, or scores of
    candidates), their spread over the ensemble, and the cluster of the prompt. A policy that `drdo` trained gives its
    own rewards, which have neither spread nor cluster.

    Args:
        data: Rows with chosen and rejected, completion, messages or candidates.
        reward_model: Folder of the reward model, or of a policy that was trained with a reward head, or of the run of
            either; a run that has both scores by the policy.
        output: File to write, .jsonl or .parquet.
        language_model: Folder or hub id of the language model that the reward model reads, if it has been moved.
        trust_remote_code: Run code that this language model brings, as `model.trust_remote_code` of the run that made
            the reward model did.
        tokens_per_batch: Token budget of a batch; null takes that of the run that made the reward model, 16384 for a
            policy.
        device: `auto`, `cpu`, `cuda`, ...
    """

    data: ScoredDataConfig
    reward_model: str
    output: str
    language_model: str | None = None
    trust_remote_code: bool = False
    tokens_per_batch: Annotated[int, POSITIVE] | None = None
    device: str = "auto"


@dataclass
class EvaluatedDataConfig:
    """Held-out pairs, which the model has not been trained on.

    Args:
        path: As of `iwpo train` (docs/data.md).
        name: Configuration of a hub data set or of a folder that has several.
        split: Split of a hub data set or of a folder that holds several.
        limit: Use only this many rows of `path`, the first ones; null uses all.
        columns: As of `iwpo train`, such as {chosen: good, rejected: bad}.
        preferred: As of `iwpo train`, such as {first: model_a, second: model_b}.
        json_columns: As of `iwpo train`.
        pairs_from_candidates: As of `iwpo train`.
        win_rate_temperature: As of `iwpo train`.
        as_chat: As of `iwpo train`.
        on_prefix_mismatch: As of `iwpo train`.
        on_text_left_out: As of `iwpo train`.
        chat_template: As of `iwpo train`.
        add_eos: As of `iwpo train`.
    """

    path: str | list[str]
    name: str | None = None
    split: str = "train"
    limit: Annotated[int, POSITIVE] | None = None
    columns: dict[str, str | None] = field(default_factory=dict)
    preferred: Preferred = field(default_factory=dict)
    json_columns: list[str] | Literal["auto"] = "auto"
    pairs_from_candidates: PairsFromCandidates = "best_worst"
    win_rate_temperature: Annotated[float, POSITIVE] | None = None
    as_chat: bool | Literal["auto"] = False
    on_prefix_mismatch: PrefixMismatchPolicy = "split"
    on_text_left_out: Literal["error", "say"] = "error"
    chat_template: str | None = None
    add_eos: bool = True


@dataclass
class AnswerConfig(CandidateConfig):
    """Answers that are drawn from the models.

    Args:
        prompts: Prompts of the data that are answered, the first different ones; null answers all.
        per_prompt: Answers to each prompt of the data; 0 draws none for them. Benchmarks get one.
        temperature: Divides the logits; MT-Bench has temperatures of its own.
        top_p: Draw among the most probable tokens that have this probability together; 1 draws among all.
        max_new_tokens: An answer that has not ended by then is cut. It must leave room for a prompt in `max_length`.
        tokens_per_batch: Token budget of one batch, each answer with its prompt and `max_new_tokens`.
        backend: `transformers`, or `vllm` on a GPU (pip install 'iwpo-fast[vllm]'); `auto` takes vllm where it is
            installed and can be used.
    """

    prompts: Annotated[int, ANSWERED] | None = 256
    per_prompt: Annotated[int, NOT_NEGATIVE] = 1
    temperature: Annotated[float, POSITIVE] = 0.7


@dataclass
class EvaluateConfig:
    """Evaluate a model on held-out pairs, by its answers, and on benchmarks (docs/evaluate.md).

    Prints a table and writes all numbers to `output`, with 95 % intervals by a bootstrap over prompts.

    Args:
        model: Folder of a run, a model or an adapter, or hub id.
        output: JSON file to write; answers are written beside it, under its name with -answers and others behind it.
        against: What the model is compared with, of the same kinds: its reference, which the log-ratio and its
            calibration need, and the model whose answers its own are compared with.
        data: Held-out pairs, by --data.path and what --data.help lists; null evaluates on benchmarks alone.
        reward_model: Folder that `iwpo run` left in `rewards/reward_model`, or of a policy that was trained with a
            reward head (`drdo`), or folder or hub id of a sequence classifier with one label. It judges answers; one of
            `iwpo run` gives clusters too.
        language_model: Folder or hub id of the language model that the reward model of `iwpo run` reads, if it has been
            moved.
        rewardbench: File or folder of RewardBench 1 or 2.
        alpaca_eval: File with AlpacaEval's instructions, which are answered in the format of its judge.
        mt_bench: MT-Bench's question.jsonl, which is answered in the format of FastChat's judge.
        answers: Answers that are drawn.
        beta: Implicit rewards are this times the log-ratio of model and `against`; as trained.
        resamples: Resamples of the bootstrap.
        max_length: Longest prompt + completion, in tokens; longer ones are left out and counted. Prompts that would
            leave an answer no room lose their beginning.
        tokens_per_batch: Token budget of a batch of texts that are scored.
        precision: Compute type; `auto` is bf16 on a GPU and fp32 on a CPU.
        trust_remote_code: Run code that models and tokenizers bring. Read it first: it can do whatever you can.
        cache_dir: Folder for tokens, log-probs and features, so that another call finds them; null keeps none.
        seed: Seed of answers and bootstrap.
        device: `auto`, `cpu`, `cuda`, ...
    """

    model: str
    output: str
    against: str | None = None
    data: EvaluatedDataConfig | None = None
    reward_model: str | None = None
    language_model: str | None = None
    rewardbench: str | None = None
    alpaca_eval: str | None = None
    mt_bench: str | None = None
    answers: AnswerConfig = field(default_factory=AnswerConfig)
    beta: Annotated[float, POSITIVE] = 0.1
    resamples: Annotated[int, Limits(100)] = 1000
    max_length: Annotated[int, Limits(2)] = 2048
    tokens_per_batch: Annotated[int, POSITIVE] = 16384
    precision: Literal["auto", "fp32", "bf16"] = "auto"
    trust_remote_code: bool = False
    cache_dir: str | None = None
    seed: Annotated[int, SEED] = 0
    device: str = "auto"


@dataclass
class ChatConfig:
    """Talk with a model; the lines of the input are what the user says.

    `/new` begins a new conversation; `/exit`, the end of the input and Ctrl-C end the chat. A model without a chat
    template goes on with each line as plain text.

    Args:
        model: Folder of a run, of a model, of an adapter, or of a mixture of types of annotators, of which one answers
            at a time; or hub id.
        compare: Another model that answers the same, or `base`: the model as it was before training.
        system: What the system says before the conversation.
        temperature: Divides the logits; 0 takes the most probable token each time.
        top_p: Draw among the most probable tokens that have this probability together; 1 draws among all.
        max_new_tokens: An answer that has not ended by then is cut.
        trust_remote_code: Run code that the models bring. Read it first: it can do whatever you can.
        seed: Seed of the draws.
        device: `auto`, `cpu`, `cuda`, ...
    """

    model: str
    compare: str | None = None
    system: str | None = None
    temperature: Annotated[float, NOT_NEGATIVE] = 0.7
    top_p: Annotated[float, SHARE] = 1.0
    max_new_tokens: Annotated[int, POSITIVE] = 512
    trust_remote_code: bool = False
    seed: Annotated[int, SEED] = 0
    device: str = "auto"


@dataclass
class MergeConfig:
    """Merge an adapter into its base, as a whole model that needs neither peft nor this library.

    An adapter that was trained on a base in 4 bits is merged into the original weights.

    Args:
        model: Folder of a run, or of an adapter.
        output: Folder to write, which must not exist.
        base: Folder or hub id of the base, where it is no longer what the adapter names.
        dtype: Type of the weights that are written; `base` is that of the base. They are added in float32.
        trust_remote_code: Run code that the base brings. Read it first: it can do whatever you can.
    """

    model: str
    output: str
    base: str | None = None
    dtype: Literal["base", "float32", "bfloat16", "float16"] = "base"
    trust_remote_code: bool = False


@dataclass
class DoctorConfig:
    """Say what is installed, what computes here, and which backends would run and why.

    Args:
        device: `auto`, `cpu`, `cuda`, ...
    """

    device: str = "auto"


@dataclass
class RecipesConfig:
    """List the recipes that come with the package, or copy one.

    Args:
        copy: Name of the recipe to copy.
        to: File to copy it to, which must not exist; null takes its name, in this folder.
    """

    copy: str | None = None
    to: str | None = None


@dataclass
class ReportConfig:
    """Write what iwpo run has done as one HTML page, which needs nothing beside itself and runs nothing.

    The run may be at work still or stopped; the page has what there is.

    Args:
        run: output_dir of `iwpo run`; `iwpo report runs/x` sets it.
        output: File to write, .html; null writes report.html into the run.
    """

    run: str
    output: str | None = None


@dataclass
class DemoConfig:
    """Make a small preference dataset, align a tiny model to it, and show what changed.

    Args:
        output_dir: Folder for the data, the models and the report.
        seed: Seed of data, initialisation and sampling.
        device: `auto`, `cpu`, `cuda`, ...
    """

    output_dir: str = "demo-run"
    seed: Annotated[int, SEED] = 0
    device: str = "auto"
