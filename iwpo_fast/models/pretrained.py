"""What is read by transformers' auto classes, and why it could not be read, in one sentence."""

from __future__ import annotations

from pathlib import Path
from typing import Any, NamedTuple

import torch
from huggingface_hub.errors import StrictDataclassError

from iwpo_fast.config import ModelConfig
from iwpo_fast.models.saved_files import check_saved, pickled_weights
from iwpo_fast.output_folder import last_round
from iwpo_fast.paths import expanded, looks_local

LONGEST_REASON = 400
"""Characters of a loader's reason that an error quotes."""


MODEL_FILES = ("config.json", "adapter_config.json")
INSIDE = ("model", "train/model")
"""Where a training and a pipeline leave their model, in their `output_dir`."""

ONE_IS_THERE = ("config.json", "tokenizer_config.json", "tokenizer.json")
"""Files of which every folder of a model or a tokenizer has at least one."""


class Source(NamedTuple):
    """Where something pretrained is.

    Attributes:
        path: folder or hub id.
        setting: the setting that names it, for messages.
        revision: of a hub id.
        trust_remote_code: whether code that it brings may run; always passed on, because transformers would ask.
    """

    path: str
    setting: str
    revision: str | None = None
    trust_remote_code: bool = False

    @classmethod
    def of(cls, model: ModelConfig) -> Source:
        return cls(model.path, "model.path", model.revision, model.trust_remote_code)

    def check_there(self) -> None:
        """Raise ValueError if the path can only be one of this machine and nothing is there, or if rounds are there."""
        folder = expanded(self.path)
        if looks_local(self.path) and not folder.exists():
            raise ValueError(
                f"{self.setting} {self.path} does not exist: check the path, or give the id of a model of the hub."
            )
        if model_in(folder) is None and (newest := last_round(folder)) is not None:
            raise ValueError(
                f"{self.setting} {self.path} holds rounds: name the folder of one of them, such as {newest}."
            )


def read_pretrained(reader: Any, source: Source, what: str, *, weights: bool = False, **options: Any) -> Any:
    """What the auto class `reader` makes of the source.

    Args:
        what: the kind of thing that is read, for messages, such as `tokenizer`.
        weights: whether weights are read too, which have to be safetensors.
        options: further arguments of `from_pretrained`.

    Raises:
        ValueError: it cannot be read, and the sentence has the reason that transformers gives; or it is no longer as we
            saved it, or has pickled weights.
    """
    source.check_there()
    check_saved(Path(model_location(source.path)), source.setting, weights=weights)
    if weights:
        options["use_safetensors"] = True
    try:
        return reader.from_pretrained(
            model_location(source.path),
            revision=source.revision,
            trust_remote_code=source.trust_remote_code,
            **options,
        )
    except torch.OutOfMemoryError:
        raise
    except StrictDataclassError as error:
        raise ValueError(
            f"The config.json of {source.path} has a value of the wrong kind: save or download it again."
        ) from error
    except Exception as error:  # a loader may run code that a model brings, which may fail in any way
        raise ValueError(_why_unreadable(source, what, error)) from error


def _why_unreadable(source: Source, what: str, error: Exception) -> str:
    if "trust_remote_code" in str(error):
        return (
            f"{source.setting} {source.path} brings code of its own, which is not run: read it, and set "
            "model.trust_remote_code to true if it may run, or give a model that transformers knows."
        )
    if "use_safetensors" in str(error):  # what transformers says of a hub id without them
        return str(pickled_weights(f"{source.setting} {source.path}", "no file of it ends in .safetensors"))
    folder = expanded(source.path)
    is_empty = folder.is_dir() and not any((folder / name).exists() for name in ONE_IS_THERE)
    if is_empty or isinstance(error, OSError):
        return (
            f"{source.setting} {source.path} is neither a folder with a {what} nor the id of one that the hub could "
            f"deliver ({reason_of(error)}): give a folder saved by save_pretrained, a hub id that is cached or can be "
            f"reached{', or tiny' if source.setting == 'model.path' else ''}."
        )
    return (
        f"The {what} of {source.setting} {source.path} cannot be loaded ({reason_of(error)}): give what it asks for, "
        "such as a package or a later transformers, or another model."
    )


def reason_of(error: Exception) -> str:
    """The message of an error as part of a sentence, or else its name."""
    said = " ".join(str(error).split()).rstrip(".:")
    name = type(error).__name__
    # The message of a KeyError is the key alone.
    said = f"{name} {said}" if isinstance(error, KeyError) else said or name
    return said if len(said) <= LONGEST_REASON else f"{said[:LONGEST_REASON]} …"


def model_location(path: str) -> str:
    """Local folders as absolute paths, so that a saved adapter finds its base from anywhere; for a run, its model's."""
    folder = expanded(path)
    return str((model_in(folder) or folder).resolve()) if folder.is_dir() else path


def model_in(folder: Path) -> Path | None:
    """The folder itself if it has a model or an adapter, or that inside it if it is of a run; None if neither has."""
    places = (folder, *(folder / place for place in INSIDE))
    return next((place for place in places if any((place / name).exists() for name in MODEL_FILES)), None)


def model_line(model: ModelConfig) -> str:
    """Which model is trained, because a run without `model.path` trains one that is good for trials alone."""
    if model.path == "tiny":
        return "model: tiny, which has random weights and is for trials: set model.path for yours"
    return f"model: {model.path}" + ("" if model.revision is None else f", revision {model.revision}")


def trust_line(model: ModelConfig) -> str | None:
    """That code of others runs, where it may; for the plan of a run."""
    if not model.trust_remote_code:
        return None
    return "model.trust_remote_code is true: code that models and tokenizers of this run bring is run"
