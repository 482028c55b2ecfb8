# Copyright 2026 The hf_focal authors. Licensed under the Apache License, Version 2.0.
"""What goes to the Hub: named files of a run's folder and nothing else, with plain errors."""

from __future__ import annotations

import inspect
import json
import logging
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from huggingface_hub import CommitInfo, HfApi
from huggingface_hub.errors import HfHubHTTPError
from transformers import AutoConfig
from transformers.utils import ADAPTER_CONFIG_NAME, CONFIG_NAME

from ..models.original import ORIGINAL_HEAD
from ..models.record import ADAPTER_RECORD
from ..online import clean_token, online, plain_text
from ..results.folder import CARD, PICTURE, PREDICTIONS, name_in_card
from ..results.labels import BY_LABEL
from ..results.replace import mend_folder
from ..tasks import task_of
from ..version import __version__


logger = logging.getLogger(__name__)


# What is pushed, by name, so that nothing else in a folder can slip out: no pickle, no log, no checkpoint.
_WEIGHTS = ("model*.safetensors", "adapter_model.safetensors", "*.safetensors.index.json", ORIGINAL_HEAD)
_CONFIGS = (CONFIG_NAME, "*_config.json", ADAPTER_RECORD, "tokenizer.json", "special_tokens_map.json")
_VOCABULARIES = ("added_tokens.json", "vocab.json", "vocab.txt", "merges.txt", "*.model", "chat_template.jinja")
_PUSHED = (*_WEIGHTS, *_CONFIGS, *_VOCABULARIES, CARD, PICTURE, BY_LABEL)


@online
def push_to_hub(
    folder: str | Path,
    repo_id: str,
    *,
    token: str | bool | None = None,
    private: bool | None = None,
    revision: str | None = None,
    push_predictions: bool = False,
    commit_message: str = "Upload a calibrated classifier",
) -> CommitInfo:
    """
    Push what a run of a script left in its folder: weights, config, image processor or tokenizer, card and picture.

    Nothing else in the folder is pushed. Pushing again after an interruption completes the upload.

    Args:
        folder (`str`):
            With `config.json`, `model.safetensors` and `README.md`, or an adapter of PEFT in place of the first two.
        repo_id (`str`):
            `"user/name"`; created if it is not there.
        token, private, revision, commit_message:
            As for `HfApi.upload_folder`; `private` is for a repository that is created.
        push_predictions (`bool`, *optional*, defaults to `False`):
            Push `predictions.safetensors` as well: logits and labels of the validation and test data.

    Returns:
        `huggingface_hub.CommitInfo`: Where it went.

    Raises:
        ValueError: If the folder holds no model, or an adapter for a base model that is a folder here, or the token
            cannot be one.
        OSError: If the push failed. The folder is complete all the same.
    """
    mend_folder(Path(folder))
    if (config := _config_of(Path(folder))) is not None and (task := task_of(config)) is not None:
        if not task.has_processor(config, folder):
            logger.warning("%s", task.without_processor(folder))
    what: Any = {"private": private, "revision": revision, "push_predictions": push_predictions}
    return upload_run(folder, repo_id, token=token, commit_message=commit_message, **what)


def _config_of(folder: Path) -> Any:
    """The config of a whole model of a known type in a folder; whether it can be pushed is asked elsewhere."""
    if (folder / ADAPTER_CONFIG_NAME).is_file() or not (folder / CONFIG_NAME).is_file():
        return None
    try:
        return AutoConfig.from_pretrained(folder, trust_remote_code=False)
    except (OSError, ValueError, KeyError):
        return None


@online
def upload_run(
    folder: str | Path,
    repo_id: str,
    *,
    token: str | bool | None,
    private: bool | None = None,
    revision: str | None,
    push_predictions: bool = False,
    commit_message: str,
) -> CommitInfo:
    """[`push_to_hub`] for a trainer, which said itself what its folder lacks."""
    folder, token = Path(folder), clean_token(token)
    if (folder / ADAPTER_CONFIG_NAME).is_file():
        base = json.loads((folder / ADAPTER_CONFIG_NAME).read_text(encoding="utf-8")).get("base_model_name_or_path")
        if Path(str(base)).exists():
            why = f"is for the base model {base}, a folder here, so nobody else could load it"
            mend = "Push that model and train on its id, or push what merge_and_unload() gives."
            raise ValueError(f"The adapter in {folder} {why}. {mend}")
    elif not (folder / CONFIG_NAME).is_file():
        raise ValueError(f"{folder} holds no model: there is neither {CONFIG_NAME} nor {ADAPTER_CONFIG_NAME} in it.")
    with plain_errors(repo_id, folder):
        api = HfApi(library_name="hf_focal", library_version=__version__)
        repo_id = api.create_repo(repo_id, token=token, private=private, exist_ok=True).repo_id
        name_in_card(folder, repo_id)
        pushed = [*_PUSHED, *([PREDICTIONS] if push_predictions else [])]
        where: Any = {"repo_id": repo_id, "folder_path": folder, "token": token, "revision": revision}
        what: Any = {"allow_patterns": pushed, "ignore_patterns": ["*/*"], "commit_message": commit_message}
        return api.upload_folder(**where, **what)


def check_access(repo_id: str, token: str | bool | None = None) -> None:
    """Ask the Hub whether this token may write to a repository, and raise its refusal."""
    if "write" not in inspect.signature(HfApi.auth_check).parameters:  # of newer clients
        return
    try:
        HfApi().auth_check(repo_id, token=token, write=True)
    except HfHubHTTPError as error:
        if error.response.status_code in (401, 403):  # a Hub that cannot tell is no reason to stop
            raise


@contextmanager
def plain_errors(repo_id: str, folder: Path | None = None) -> Iterator[None]:
    """Turn whatever the client raises, from a refusal of the Hub to a broken connection, into one plain error."""
    try:
        yield
    except Exception as error:
        text = f"Cannot push to {repo_id}: {plain_text(error)}"
        if folder is not None:
            text += f" {folder} is complete: push it again by hf_focal.push_to_hub({str(folder)!r}, {repo_id!r})."
        raise OSError(text) from None
