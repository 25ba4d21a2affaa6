"""Sending a trained model to the Hugging Face hub, where that is asked for and never otherwise."""

from __future__ import annotations

from pathlib import Path

import huggingface_hub
from huggingface_hub.errors import HFValidationError
from huggingface_hub.utils import validate_repo_id

from iwpo_fast.world import World


def check_push(name: str) -> None:
    """Raise ValueError for what can be seen, without a network, not to arrive at the hub."""
    try:
        validate_repo_id(name)
    except HFValidationError as error:
        raise ValueError(f"push_to_hub {name!r} is no name of a repository: give one such as me/my-model.") from error
    if huggingface_hub.is_offline_mode():
        raise ValueError(
            f"push_to_hub is {name} but HF_HUB_OFFLINE is set, which keeps everything here: unset it, or leave "
            "push_to_hub out."
        )
    if huggingface_hub.get_token() is None:
        raise ValueError(
            f"push_to_hub is {name} but nobody is logged in here: run hf auth login, or leave push_to_hub out."
        )


def push_if_asked(folder: Path, name: str | None, world: World) -> None:
    """Have rank 0 send the model in `folder` where a name is given, and the others wait for it."""
    if name is None:
        return
    if world.is_main:
        world.say(f"the model is at {push(folder, name)}")
    world.barrier()


def push(folder: Path, name: str) -> str:
    """Send the model in `folder`, and give back where it is; a repository that is made for it is private.

    Raises:
        ValueError: it does not arrive; it stays where it is, and the same command sends it again.
    """
    hub = huggingface_hub.HfApi()
    try:
        place = hub.create_repo(name, private=True, exist_ok=True)
        hub.upload_folder(repo_id=place.repo_id, folder_path=folder, commit_message="Model trained with iwpo-fast")
    except Exception as error:  # of the network, of the service or of what is allowed there
        reason = " ".join(str(error).split()).rstrip(".:") or type(error).__name__
        raise ValueError(
            f"the model is saved in {folder} and has not arrived at {name} ({reason}): run the same command "
            "again to send it."
        ) from error
    return str(place)
