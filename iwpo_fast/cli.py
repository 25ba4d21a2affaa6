"""The command `iwpo`."""

from __future__ import annotations

import os
import select
import sys
import warnings
from collections.abc import Sequence

from safetensors import SafetensorError

from iwpo_fast import peers, signals, threads
from iwpo_fast.command_config import (
    ChatConfig,
    DemoConfig,
    DoctorConfig,
    EvaluateConfig,
    MergeConfig,
    RecipesConfig,
    ReportConfig,
    ScoreConfig,
)
from iwpo_fast.config import ModelConfig, RunConfig, TinyConfig, TrainConfig, dataclass_from
from iwpo_fast.extras import NotInstalled, needed
from iwpo_fast.memory import is_out_of_memory, out_of_memory
from iwpo_fast.terminal import escaped

READER_HAS_LEFT = 141
"""Exit code by the convention of shells for SIGPIPE."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command.

    Returns:
        0; 2 after a one-sentence error (set IWPO_DEBUG=1 to see where it came from); 130 after Ctrl-C; 141 where nobody
        reads what is printed any more; 143 after SIGTERM or SIGUSR1.
    """
    arguments = sys.argv[1:] if arguments is None else list(arguments)
    with signals.handled(), peers.told():
        try:
            return _main(arguments)
        except BaseException as error:
            return _ended_by(error)


def _ended_by(error: BaseException) -> int:
    """The exit code after a signal, which is said; anything else is raised again, when the other ranks know of it."""
    if signals.asked() or isinstance(error, signals.Stopped):  # which another rank may have been asked for
        stopped = signals.stopped(error)
        if os.environ.get("RANK", "0") == "0":
            print(f"iwpo: {stopped}", file=sys.stderr, flush=True)
        peers.end(None if stopped.step is not None else str(stopped), stopped.code)
        return stopped.code
    if isinstance(error, SystemExit):
        peers.end(None)
    else:
        if isinstance(error, RuntimeError):  # perhaps of the transport, because another process has ended
            peers.hear()
        peers.end(f"{type(error).__name__}: {error}")
    raise error


def _main(arguments: Sequence[str]) -> int:
    try:
        if _translates(arguments):
            return 0
        needed("jsonargparse", by="the command iwpo")
        from iwpo_fast.cli_parser import make_parser, parse

        if not arguments:
            make_parser().print_help()
            sys.stdout.flush()
            return 0
        command, settings = parse(arguments)
        threads.settle(_width(settings))
        if command not in LIGHT:
            _quieten_libraries()
        RUN[command](settings)
        sys.stdout.flush()
    except (ValueError, OSError, NotInstalled, SafetensorError, MemoryError, RuntimeError) as error:
        is_bug = isinstance(error, RuntimeError) and not is_out_of_memory(error)
        if is_bug or os.environ.get("IWPO_DEBUG") == "1" or signals.asked():
            raise
        several = "RANK" in os.environ and os.environ.get("WORLD_SIZE", "1") != "1"
        if isinstance(error, BrokenPipeError) and not several and _reader_has_left():
            return READER_HAS_LEFT
        rank = f" on rank {os.environ['RANK']}" if several else ""
        sentence = " ".join(_sentence(error).split())
        if peers.speaks(error):
            print(f"iwpo: error{rank}: {escaped(sentence)}", file=sys.stderr, flush=True)
        peers.end(None if isinstance(error, (peers.Agreed, peers.PeerFailed)) else sentence)
        return 2
    peers.end(None)
    return 0


def _reader_has_left() -> bool:
    """Whether standard output is a pipe that nobody reads, as behind `head`; then it leads nowhere from now on."""
    output = select.poll()
    output.register(sys.stdout, 0)
    left = any(events & select.POLLERR for _, events in output.poll(0))
    if left:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # because Python flushes once more as it ends
    return left


def _translates(arguments: Sequence[str]) -> bool:
    """Print a recipe of TRL's in our settings, where that is asked for; what it needs is imported for it alone."""
    if not any(word.partition("=")[0] == "--from_trl" for word in arguments):
        return False
    from iwpo_fast.integrations import trl_recipe

    path = trl_recipe.asked_for(arguments)
    if path is not None:
        print(trl_recipe.translated_file(path).yaml(), end="")
    return path is not None


def _sentence(error: Exception) -> str:
    """Errors of the library say what to do already; those of the file system, such as a full disk, do not."""
    if isinstance(error, (ValueError, NotInstalled)):
        return str(error)
    if is_out_of_memory(error):
        return out_of_memory(error)
    path = f" {error.filename}" if isinstance(error, OSError) and error.filename else ""
    reason = error.strerror or error if isinstance(error, OSError) else error
    return f"cannot read or write{path} ({reason}): check the path and the room on its disk, then run this again."


def _width(settings: object) -> int | None:
    """Hidden size of the model, as far as it is known before anything is loaded; the demo has the model `tiny`."""
    model: ModelConfig | str | None = getattr(settings, "model", None)
    if model is None and hasattr(settings, "reward_model"):
        return threads.hidden_size_of_reward_model(settings.reward_model)
    if model is None:
        return TinyConfig().hidden_size
    if isinstance(model, str):
        return threads.hidden_size(model)
    return model.tiny.hidden_size if model.path == "tiny" else threads.hidden_size(model.path)


def _run(settings: object) -> None:
    from iwpo_fast.pipeline import run

    options = {name: getattr(settings, key) for name, key in (("start", "from"), ("only", "only"), ("force", "force"))}
    config = dataclass_from(RunConfig, settings)
    if getattr(settings, "baseline") and "dpo" not in config.arms:  # noqa: B009
        config.arms.insert(0, "dpo")
    run(config, **options)


def _train(settings: object) -> None:
    from iwpo_fast.training import train

    train(dataclass_from(TrainConfig, settings))


def _preview(settings: object) -> None:
    from iwpo_fast.preview.command import preview

    options = {name: getattr(settings, name) for name in ("rows", "full")}
    preview(dataclass_from(RunConfig, settings), **options)


def _score(settings: object) -> None:
    from iwpo_fast.scoring import score_file

    score_file(dataclass_from(ScoreConfig, settings))


def _evaluate(settings: object) -> None:
    from iwpo_fast.evaluation.command import evaluate_model

    evaluate_model(dataclass_from(EvaluateConfig, settings))


def _chat(settings: object) -> None:
    from iwpo_fast.chat import chat

    chat(dataclass_from(ChatConfig, settings))


def _merge(settings: object) -> None:
    from iwpo_fast.merging import merge_adapter

    merge_adapter(dataclass_from(MergeConfig, settings))


def _doctor(settings: object) -> None:
    from iwpo_fast.doctor import examine

    examine(dataclass_from(DoctorConfig, settings))


def _recipes(settings: object) -> None:
    from iwpo_fast.recipe_shelf import show_or_copy

    show_or_copy(dataclass_from(RecipesConfig, settings))


def _report(settings: object) -> None:
    from iwpo_fast.report import report_run

    report_run(dataclass_from(ReportConfig, settings))


def _demo(settings: object) -> None:
    from iwpo_fast.demo import run_demo

    run_demo(dataclass_from(DemoConfig, settings))


def _quieten_libraries() -> None:
    """Progress bars of the libraries and advice to their callers would tear the step-lines."""
    import transformers

    warnings.filterwarnings("ignore", category=FutureWarning, module=r"(transformers|peft)\b")

    transformers.logging.disable_progress_bar()


RUN = {
    "preview": _preview,
    "train": _train,
    "run": _run,
    "score": _score,
    "evaluate": _evaluate,
    "report": _report,
    "chat": _chat,
    "merge": _merge,
    "doctor": _doctor,
    "recipes": _recipes,
    "demo": _demo,
}
LIGHT = ("doctor", "recipes")
"""Commands that say what they have to say where the libraries cannot be imported, too."""
