# Copyright 2026 The hf_focal authors. Licensed under the Apache License, Version 2.0.
"""Calibrated classifiers to and from the Hugging Face Hub."""

from __future__ import annotations

import hashlib
import inspect
import logging
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from huggingface_hub import HfApi, get_token
from huggingface_hub.errors import HfHubHTTPError
from transformers import (
    AutoConfig,
    AutoImageProcessor,
    AutoModelForImageClassification,
    AutoModelForSequenceClassification,
    AutoModelForTokenClassification,
    AutoTokenizer,
)
from transformers.utils import CONFIG_NAME, cached_file

from . import networks  # noqa: F401  (registers our architectures, so that their checkpoints load)
from .folding import apply_temperature, check_record
from .model_card import TASKS, infer_task
from .report import CARD, PICTURE, PREDICTIONS
from .version import __version__


if TYPE_CHECKING:
    from huggingface_hub import CommitInfo
    from transformers import PreTrainedModel


logger = logging.getLogger(__name__)

_AUTO_CLASSES: dict[str, Any] = {
    "image-classification": AutoModelForImageClassification,
    "text-classification": AutoModelForSequenceClassification,
    "token-classification": AutoModelForTokenClassification,
}
# What is pushed, by name, so that nothing else in a folder can slip out: no pickle, no log, no checkpoint.
_WEIGHTS = ("model*.safetensors", "adapter_model.safetensors", "*.safetensors.index.json")
_CONFIGS = (CONFIG_NAME, "*_config.json", "tokenizer.json", "special_tokens_map.json", "added_tokens.json")
_VOCABULARIES = ("vocab.json", "vocab.txt", "merges.txt", "*.model", "chat_template.jinja")
_PUSHED = (*_WEIGHTS, *_CONFIGS, *_VOCABULARIES, CARD, PICTURE)


def from_pretrained(
    name_or_path: str | Path,
    *,
    task: str | None = None,
    revision: str | None = None,
    token: str | bool | None = None,
    local_files_only: bool = False,
    cache_dir: str | Path | None = None,
    **kwargs: Any,
) -> PreTrainedModel:
    """
    Load a classifier whose softmax is calibrated, whether its temperature is folded into the weights or not.

    An unfolded temperature is applied in the forward pass, see [`apply_temperature`]. The config is checked before any
    weights are loaded, and no code of the repository is run: weights come from safetensors, or from pickles read with
    `weights_only=True`. Weights that are missing, or whose download is damaged, are an error.

    Args:
        name_or_path (`str`):
            Id on the Hub, or a folder.
        task (`str`, *optional*):
            `"image-classification"`, `"text-classification"` or `"token-classification"`; by default what the config
            says.
        revision (`str`, *optional*):
            Branch, tag or commit. Config and weights come from the same commit.
        token (`str` or `bool`, *optional*):
            For private repositories; by default the one that `hf auth login` stored.
        local_files_only (`bool`, *optional*, defaults to `False`):
            Load from the cache alone.
        cache_dir (`str`, *optional*):
            Another cache than the usual one.
        kwargs:
            As for `from_pretrained` of the Auto classes, such as `dtype` or `device_map`. `trust_remote_code` is
            refused.

    Returns:
        `transformers.PreTrainedModel`: In evaluation mode. Its `logits` are to be fed to a softmax as they are.

    Raises:
        ValueError: If `config.json` holds a malformed `calibration` or names no classifier, or weights are missing.
        OSError: If there is no such model, it is private, it cannot be reached, or a download is damaged.
    """
    refuse_code(kwargs)
    source: dict[str, Any] = {"token": token, "local_files_only": local_files_only, "cache_dir": cache_dir}
    found = cached_file(str(name_or_path), CONFIG_NAME, revision=revision, **source)
    assert found is not None  # it raises instead
    folder = Path(found).parent
    if (
        folder.parent.name == "snapshots"
    ):  # of the cache: the same commit for the weights, whatever is pushed meanwhile
        revision = folder.name
    source |= {"revision": revision, "trust_remote_code": False}
    config = AutoConfig.from_pretrained(name_or_path, **source)
    try:
        record = check_record(getattr(config, "calibration", None))
    except ValueError as error:
        raise ValueError(f"{CONFIG_NAME} of {name_or_path} is refused: {error}") from error
    task = task or infer_task(config)
    if task not in _AUTO_CLASSES:
        raise ValueError(
            f"{CONFIG_NAME} of {name_or_path} has architectures {getattr(config, 'architectures', None)}. Supported: "
            + ", ".join(f"{name} (*{suffix})" for name, suffix in TASKS.items())
            + f". Got task={task!r}; set it to one of these if the weights have such a head."
        )
    if record is None:
        logger.warning("%s was never calibrated: its config has no 'calibration'.", name_or_path)
    if local_files_only:  # the Auto classes forget it where they look for an adapter
        kwargs["adapter_kwargs"] = {"local_files_only": True, **kwargs.get("adapter_kwargs", {})}
    try:
        model, info = _AUTO_CLASSES[task].from_pretrained(
            name_or_path, config=config, output_loading_info=True, weights_only=True, **source, **kwargs
        )
    finally:  # damaged files explain whatever else goes wrong
        _refuse_damaged(folder)
    if missing := [*info["missing_keys"], *info["mismatched_keys"]]:
        names = ", ".join(sorted(map(str, missing)))
        raise ValueError(f"{name_or_path} lacks weights of {type(model).__name__}, which would be random: {names}.")
    try:
        return apply_temperature(model) if record is not None and not record["folded"] else model
    except ValueError as error:
        raise ValueError(f"{CONFIG_NAME} of {name_or_path} is refused: {error}") from error


def load_processor(name_or_path: str | Path, task: str, **kwargs: Any) -> Any:
    """The image processor or tokenizer of a checkpoint; keyword arguments as for `from_pretrained`."""
    auto_class: Any = AutoImageProcessor if task == "image-classification" else AutoTokenizer
    return auto_class.from_pretrained(name_or_path, trust_remote_code=False, **kwargs)


def refuse_code(kwargs: dict[str, Any]) -> None:
    """Take out of keyword arguments what would let a repository run code; asking for it is an error."""
    kwargs.pop("weights_only", None)  # always true
    if kwargs.pop("trust_remote_code", None):
        raise ValueError("trust_remote_code is not supported: hf_focal runs no code of a repository.")


def _refuse_damaged(folder: Path) -> None:
    """
    Compare cached downloads with the hashes that the Hub gave for them, which are their names in the cache. The client
    itself only compares sizes.
    """
    for pointer in folder.iterdir() if folder.parent.name == "snapshots" else ():
        blob = pointer.resolve()
        if pointer.suffix not in (".json", ".safetensors", ".bin") or not blob.is_file():
            continue
        if re.fullmatch("[0-9a-f]{64}", blob.name):
            digest = hashlib.sha256()
        elif re.fullmatch("[0-9a-f]{40}", blob.name):  # of git
            digest = hashlib.sha1(b"blob %d\0" % blob.stat().st_size, usedforsecurity=False)
        else:  # no link into the cache
            continue
        with blob.open("rb") as file:
            while block := file.read(1 << 20):
                digest.update(block)
        if digest.hexdigest() != blob.name:
            blob.unlink()
            raise OSError(
                f"The download of {pointer.name} is damaged: its hash is not the one that the Hub gave. It is removed "
                "from the cache; load the model again."
            )


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
            With `config.json`, `model.safetensors` and `README.md`.
        repo_id (`str`):
            `"user/name"`; created if it is not there.
        token (`str`, *optional*):
            With the right to write; by default the one that `hf auth login` stored.
        private (`bool`, *optional*):
            Of a repository that is created.
        revision (`str`, *optional*):
            Branch to push to.
        push_predictions (`bool`, *optional*, defaults to `False`):
            Push `predictions.safetensors` as well: logits and labels of the validation and test data.
        commit_message (`str`, *optional*):
            Title of the commit.

    Returns:
        `huggingface_hub.CommitInfo`: Where it went.

    Raises:
        ValueError: If the folder holds no model.
        OSError: If the push failed. The folder is complete all the same.
    """
    folder = Path(folder)
    if not (folder / CONFIG_NAME).is_file():
        raise ValueError(f"{folder} holds no model: there is no {CONFIG_NAME} in it.")
    with plain_errors(repo_id, token, folder):
        api = HfApi(library_name="hf_focal", library_version=__version__)
        repo_id = api.create_repo(repo_id, token=token, private=private, exist_ok=True).repo_id
        _name_in_card(folder, repo_id)
        return api.upload_folder(
            repo_id=repo_id,
            folder_path=folder,
            allow_patterns=[*_PUSHED, *([PREDICTIONS] if push_predictions else [])],
            ignore_patterns=["*/*"],
            token=token,
            revision=revision,
            commit_message=commit_message,
        )


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
def plain_errors(repo_id: str, token: str | bool | None, folder: Path | None = None) -> Iterator[None]:
    """Turn whatever the client raises, from a refusal of the Hub to a broken connection, into one plain error."""
    try:
        yield
    except Exception as error:
        causes = [" ".join(str(cause).split()) for cause in (error, error.__cause__) if cause is not None]
        text = f"Cannot push to {repo_id}: {' '.join(dict.fromkeys(causes))}"
        if folder is not None:
            text += f" {folder} is complete: push it again by hf_focal.push_to_hub({str(folder)!r}, {repo_id!r})."
        secret = token if isinstance(token, str) else get_token()
        # Not `from error`: its message may quote the headers of the request, and so the token.
        raise OSError(text.replace(secret.strip(), "<token>") if secret and secret.strip() else text) from None


def _name_in_card(folder: Path, repo_id: str) -> None:
    """Let the snippet of our card load the repository that it goes to, and not the folder that it was made for."""
    card = folder / CARD
    if card.is_file():
        text = card.read_text(encoding="utf-8")
        named = re.sub(r'(?m)^(classifier = pipeline\("[\w-]+", model=)".*"\)$', rf'\1"{repo_id}")', text, count=1)
        if named != text:
            card.write_text(named, encoding="utf-8")
