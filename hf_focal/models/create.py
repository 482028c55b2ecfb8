# Copyright 2026 The hf_focal authors. Licensed under the Apache License, Version 2.0.
"""Create a classifier and what makes its inputs from a timm name, a checkpoint or a local folder."""

from __future__ import annotations

import inspect
import logging
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import timm
import torch
from timm.models import PretrainedCfg
from torch import nn
from transformers import (
    AutoConfig,
    AutoModelForImageClassification,
    BaseImageProcessor,
    BertConfig,
    PretrainedConfig,
    PreTrainedModel,
    PreTrainedTokenizerBase,
    TimmWrapperConfig,
)
from transformers.modeling_utils import set_zero3_state
from transformers.models.timm_wrapper import TimmWrapperImageProcessor

from ..checks import check_count
from ..files import check_weights, explained
from ..names import suggestion

# Which also registers our architectures with timm.
from ..networks import GlobalPoolingCNNConfig, TreeLSTMConfig, create_global_pooling_cnn, create_tree_lstm
from ..online import online
from ..tasks import TASKS, AudioClassification, ImageClassification, TextClassification, get_task
from ..tasks.base import canonical_task
from ..tasks.image import prepare_image_processor
from ..tasks.text import train_tokenizer
from .record import forget_record, stated_record, why_of_another_head
from .source import find_config


logger = logging.getLogger(__name__)

SMALL_BERT, TREE_LSTM = "small-bert", "tree-lstm"
# Networks that are made for the texts at hand, and their configs.
LEARNED = {SMALL_BERT: BertConfig, "global-pooling-cnn": GlobalPoolingCNNConfig, TREE_LSTM: TreeLSTMConfig}


@online
def create_image_classifier(
    name: str, label_names: Sequence[str], *, from_scratch: bool = False,
    image_size: int | None = None, data_size: int | None = None,
    image_mean: Sequence[float] | None = None, image_std: Sequence[float] | None = None, sigmoid: bool = False,
    **kwargs: Any,
) -> tuple[PreTrainedModel, BaseImageProcessor]:  # fmt: skip
    """
    Build a classifier with a head for the given labels, and the image processor that goes with it.

    Args:
        name (`str`):
            A timm architecture (`resnet18`, `timm/resnet18.a1_in1k`, `cifar_resnet20`), a transformers checkpoint on
            the Hub, or a local folder.
        label_names (`Sequence[str]`): Names of the classes, in the order of their indices.
        from_scratch (`bool`, *optional*, defaults to `False`): Random weights, initialised as the architecture's own
            library does; nothing is downloaded for a timm name or a local folder. The next four are for a timm name.
        image_size (`int`, *optional*):
            Height and width of the input in pixels; by default the architecture's own.
        data_size (`int`, *optional*): Size of the images at hand, in pixels: the input is no larger, but at least 32,
            unless `image_size` says so.
        image_mean, image_std (`Sequence[float]`, *optional*): What colours are normalised by, in fractions of white;
            by default what the architecture's own weights were trained with.
        sigmoid (`bool`, *optional*, defaults to `False`): Give each label a probability of its own, for samples of
            several labels (`problem_type="multi_label_classification"`); a single name makes a single logit.
        kwargs: `revision`, `token`, `cache_dir`, `local_files_only`: passed on to `from_pretrained`.

    Raises:
        ValueError: If `name` is neither of the three, has no pretrained weights, or cannot take images of the size.
    """
    if not Path(name).is_dir():
        architecture = name.removeprefix("timm/").split(".")[0]
        if timm.is_model(architecture) and (name.startswith("timm/") or "/" not in name):
            if from_scratch:
                made = _timm_from_scratch(architecture, label_names, image_size, data_size, image_mean, image_std)
                made[0].config.problem_type = _problem_type(sigmoid)
                return made
            name = name if name.startswith("timm/") else _timm_checkpoint(name)
        elif "/" not in name:
            similar = timm.list_models(f"*{architecture}*")[:8]
            hint = f"taken as a checkpoint on the Hub.{' timm has ' + ', '.join(similar) + '.' if similar else ''}"
            logger.info("%s is no timm architecture and no folder here: %s", name, hint)
    for argument, value in {"image_size": image_size, "image_mean": image_mean, "image_std": image_std}.items():
        if value is not None:
            where = f"a timm architecture trained from scratch; the image processor of {name!r} has its own"
            raise ValueError(f"{argument}={value} only applies to {where}.")
    find_config(name, timm.list_models(), **kwargs)
    model = _model(AutoModelForImageClassification, name, label_names, from_scratch, sigmoid, kwargs)
    processor = TASKS[ImageClassification.name].load_processor(name, model.config, **kwargs)
    prepare_image_processor(model, processor)
    return model, processor


@online
def create_audio_classifier(
    name: str, label_names: Sequence[str], *, from_scratch: bool = False, sigmoid: bool = False, **kwargs: Any
) -> tuple[PreTrainedModel, Any]:
    """
    Build a classifier of sounds with a head for the given labels, and the feature extractor that goes with it.

    Args:
        name (`str`): A transformers checkpoint on the Hub, such as of wav2vec2, AST or Whisper, or a local folder.
        label_names, sigmoid, kwargs: As for [`create_image_classifier`].
        from_scratch (`bool`, *optional*, defaults to `False`): Random weights; of the checkpoint only config and
            feature extractor are read.

    Raises:
        ValueError, OSError: If there is no such checkpoint, or it has no feature extractor.
    """
    find_config(name, (), **kwargs)
    known = TASKS[AudioClassification.name]
    model = _model(known.auto_class, name, label_names, from_scratch, sigmoid, kwargs)
    return model, known.load_processor(name, model.config, **kwargs)


@online
def create_text_classifier(
    name: str, label_names: Sequence[str], *, from_scratch: bool = False, max_seq_length: int | None = None,
    texts: Iterable[str] | None = None, task: str = TextClassification.name,
    embeddings: str | Path | None = None, vocab_size: int | None = None,
    model_kwargs: Mapping[str, Any] | None = None, sigmoid: bool = False, **kwargs: Any,
) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:  # fmt: skip
    """
    Build a classifier of texts, or of their tokens, with a head for the given labels, and the tokenizer for it.

    Args:
        name (`str`):
            A transformers checkpoint on the Hub, a local folder, or a network with random weights whose vocabulary is
            learned from `texts`: `"small-bert"`, a BERT of two layers, or one of the two of the paper (Section 5),
            `"global-pooling-cnn"` and `"tree-lstm"`.
        label_names, sigmoid, kwargs: As for [`create_image_classifier`].
        from_scratch (`bool`, *optional*, defaults to `False`):
            Random weights; of the checkpoint only config and tokenizer are read.
        max_seq_length (`int`, *optional*): Cut texts to so many tokens; by default to as many as the model takes.
        texts (`Iterable[str]`, *optional*):
            The training texts, for a network that learns its vocabulary; for `"tree-lstm"` trees in brackets.
        task (`str`, *optional*, defaults to `"text-classification"`): Any in `hf_focal.TASKS` whose inputs a tokenizer
            makes. For `"token-classification"` it is prepared for texts that come as lists of words.
        embeddings, vocab_size, model_kwargs (*optional*):
            Of a network that learns its vocabulary: folder of pretrained word vectors, see [`load_word_vectors`] (for
            the two of the paper), most entries of the vocabulary, and settings such as `{"cell": "released"}`.

    Returns:
        `tuple`: The model and its tokenizer, which agree on the padding token (a decoder that has none, such as GPT-2,
        pads with its end of text) and on the length of a text.

    Raises:
        ValueError: If there is no token to pad with, there are no texts to learn a vocabulary from, a setting is not
            one of the network's, the task is not one of texts or the network does not serve it, or the tokenizer
            cannot tell which tokens are of which word where the task asks for that.
        OSError: If there is no such checkpoint.
    """
    if (task := canonical_task(task)) not in text_tasks():
        raise ValueError(f"task must be one of {', '.join(text_tasks())}, got {task!r}.")
    settings: dict[str, Any] = {"embeddings": embeddings, "vocab_size": vocab_size, "model_kwargs": model_kwargs}
    if name in LEARNED and not Path(name).is_dir():
        if texts is None:
            raise ValueError(f"{name!r} needs the training texts (texts=...), for its vocabulary.")
        made = _learned(name, texts, label_names, max_seq_length, task, **settings)
        made[0].config.problem_type = _problem_type(sigmoid)
        return made
    if given := [key for key, value in settings.items() if value is not None]:
        only = f"networks whose vocabulary is learned ({', '.join(LEARNED)})"
        raise ValueError(f"{', '.join(given)} can only be set for {only}; {name!r} has its own.")
    find_config(name, LEARNED, **kwargs)
    known = get_task(task)
    model = _model(known.auto_class, name, label_names, from_scratch, sigmoid, kwargs)
    tokenizer = known.load_processor(name, model.config, **kwargs)
    known.check_processor(model, tokenizer, name)
    known.prepare(model, tokenizer, max_seq_length)
    return model, tokenizer


def text_tasks() -> list[str]:
    """The names of the tasks whose inputs a tokenizer makes."""
    return [name for name, task in TASKS.items() if task.processor == "tokenizer"]


def _learned(
    name: str, texts: Iterable[str], label_names: Sequence[str], max_seq_length: int | None, task: str,
    vocab_size: int | None, embeddings: str | Path | None, model_kwargs: Mapping[str, Any] | None,
) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:  # fmt: skip
    """A network that is made for the texts at hand."""
    settings = dict(model_kwargs or {})
    made = {"kwargs", "vocab_size", "pad_token_id", "id2label", "label2id"}  # by the texts and their labels
    known = [key for key in inspect.signature(LEARNED[name]).parameters if key not in made]
    if unknown := [key for key in settings if key not in known]:
        raise ValueError(f"{name!r} has no setting {', '.join(map(repr, unknown))}; it has {', '.join(known)}.")
    options = {} if vocab_size is None else {"vocab_size": check_count("vocab_size", vocab_size)}
    if name == SMALL_BERT:
        if embeddings is not None:
            raise ValueError(f"{SMALL_BERT!r} learns its embeddings: leave embeddings unset.")
        tokenizer = train_tokenizer(texts, **{"vocab_size": 4000, **options})
        sizes: dict[str, Any] = {"hidden_size": 64, "num_hidden_layers": 2, "num_attention_heads": 2}
        sizes |= {"intermediate_size": 128, "max_position_embeddings": 128, **settings}
        config = BertConfig(vocab_size=len(tokenizer), **sizes, **_labels(label_names))
        model = _fresh(get_task(task).auto_class, config)
        get_task(task).prepare(model, tokenizer, max_seq_length)
        return model, tokenizer
    if task != TextClassification.name:
        raise ValueError(f"{name!r} classifies whole texts: it does not serve {task}.")
    if name == TREE_LSTM:
        if max_seq_length is not None:
            raise ValueError("A tree cannot be cut: leave max_seq_length (--max_seq_length) unset.")
        return create_tree_lstm(texts, label_names, embeddings, **options, **settings)
    if max_seq_length is not None:
        settings["sequence_length"] = max_seq_length
    return create_global_pooling_cnn(texts, label_names, embeddings, **options, **settings)


def freeze_all_but_last(model: PreTrainedModel, count: int) -> None:
    """Train the last `count` layers alone, which are one list, and what comes after them, such as a pooler."""
    body = model.base_model
    lists = [module for module in body.modules() if isinstance(module, nn.ModuleList)]
    layers = max(lists, key=len, default=nn.ModuleList())
    if not 0 <= count <= len(layers) or body is model:
        raise ValueError(f"{type(model).__name__} has {len(layers)} layers; cannot train the last {count} of them.")
    body.requires_grad_(False)
    poolers = [module for name, module in body.named_children() if "pool" in name]
    for module in (*layers[len(layers) - count :], *poolers):
        module.requires_grad_(True)


def _model(
    auto_class: Any, name: str, label_names: Sequence[str], from_scratch: bool, sigmoid: bool,
    source: Mapping[str, Any],
) -> PreTrainedModel:  # fmt: skip
    """The model of a checkpoint, or of its config alone."""
    labels = {**_labels(label_names), "problem_type": _problem_type(sigmoid)}
    with explained(name):
        if from_scratch:
            config = _single_logit(name, labels, source) or AutoConfig.from_pretrained(name, **labels, **source)
            model = _fresh(auto_class, config)
            reason = "all weights are new"
        else:
            if Path(name).is_dir():
                check_weights(Path(name))
            # A head of another size is replaced; its weights are new.
            options = {"ignore_mismatched_sizes": True, "output_loading_info": True}
            config = _single_logit(name, labels, source)
            named = labels if config is None else {"config": config}
            model, info = auto_class.from_pretrained(name, **named, **options, **source)
            new = sorted({*info["missing_keys"], *(key for key, *_ in info["mismatched_keys"])})
            reason = f"{', '.join(new)} are new" if new else ""
            if len(label_names) == 2 and any(key[1][:1] == (1,) for key in info["mismatched_keys"]):
                logger.warning("The head of %s has a single logit, and one of two classes takes its place.", name)
    record = stated_record(model)
    if record is not None and (reason := reason or why_of_another_head(model, record)):
        forget_record(model, reason)
    if not {*(getattr(model.config, "masked_classes", None) or ())} <= {*label_names}:
        logger.warning("%s masks %s, which are no classes here: it masks none.", name, model.config.masked_classes)
        model.config.masked_classes = None
    return model


def _single_logit(name: str, labels: Mapping[str, Any], source: Mapping[str, Any]) -> Any:
    """The config for a single logit, which is refused while it still says what kind of a softmax was there before."""
    if labels["num_labels"] > 1:
        return None
    config = AutoConfig.from_pretrained(name, **source)
    for key in ("problem_type", *labels):
        setattr(config, key, labels[key])
    return config


def _problem_type(sigmoid: bool) -> Literal["multi_label_classification"] | None:
    return "multi_label_classification" if sigmoid else None


def _labels(label_names: Sequence[str]) -> dict[str, Any]:
    return {
        "num_labels": len(label_names),  # TimmWrapperConfig would keep the number in its file whatever id2label says
        "id2label": dict(enumerate(label_names)),
        "label2id": {label: index for index, label in enumerate(label_names)},
    }


def _timm_checkpoint(name: str) -> str:
    """The Hub id of the pretrained weights of a timm name."""
    try:
        cfg = timm.get_pretrained_cfg(name)
    except RuntimeError as error:  # the part after the dot
        near = suggestion(name, timm.list_pretrained(f"{name.split('.')[0]}.*"))
        raise ValueError(f"timm has no weights {name!r}.{near}") from error
    if cfg is None or not cfg.hf_hub_id:
        raise ValueError(f"timm has no pretrained weights for {name!r}. Train it from scratch (from_scratch=True).")
    return cfg.hf_hub_id if "." in cfg.hf_hub_id else f"{cfg.hf_hub_id}{name}"


def _timm_from_scratch(
    architecture: str, label_names: Sequence[str], image_size: int | None, data_size: int | None,
    image_mean: Sequence[float] | None, image_std: Sequence[float] | None,
) -> tuple[PreTrainedModel, BaseImageProcessor]:  # fmt: skip
    known: Any = timm.get_pretrained_cfg(architecture)
    defaults = (known or PretrainedCfg()).to_dict()
    channels, own_size, _ = input_size = list(defaults["input_size"])
    model_args: dict[str, Any] = {}
    if image_size is None and data_size is not None and max(data_size, 32) < own_size:
        image_size = max(data_size, 32)
    if image_size is not None:
        if defaults.get("fixed_input_size"):
            model_args["img_size"] = image_size
        input_size = [channels, image_size, image_size]
    # crop_pct 1: the processor resizes to the input size and cuts nothing off.
    kept = {key: defaults[key] for key in ("mean", "std", "interpolation", "first_conv", "classifier")}
    pretrained_cfg = {**kept, "input_size": input_size, "crop_pct": 1.0}
    for key, values in {"mean": image_mean, "std": image_std}.items():
        if values is not None:
            if len(values) != 3 or (key == "std" and min(values) <= 0):
                raise ValueError(f"image_{key} must hold one number per colour, deviations above 0, got {values}.")
            pretrained_cfg[key] = tuple(values)
    labels = {"num_classes": len(label_names), "label_names": list(label_names)}
    network = {"architecture": architecture, "model_args": model_args, "pretrained_cfg": pretrained_cfg}
    config = TimmWrapperConfig.from_dict({**network, **labels})
    try:
        model = _fresh(AutoModelForImageClassification, config)
        with torch.no_grad():
            model.eval()(pixel_values=torch.zeros(1, *input_size))
    except (RuntimeError, AssertionError, ValueError, TypeError, IndexError, ZeroDivisionError) as error:
        reason = (str(error) or type(error).__name__).splitlines()[0]
        raise ValueError(
            f"{architecture!r} cannot take images of {input_size[1]}x{input_size[1]} pixels ({reason}). Set "
            f"image_size (--image_size); its own is {own_size}, to which smaller images are enlarged."
        ) from error
    model.train()
    return model, TimmWrapperImageProcessor(pretrained_cfg=pretrained_cfg, architecture=architecture)


def _fresh(auto_class: Any, config: PretrainedConfig) -> PreTrainedModel:
    """
    A model with random weights, which every process holds whole: under DeepSpeed's ZeRO-3 transformers would part them
    at once, and the trainer does that later. A wrapped timm network gets timm's own initial weights: the wrapper draws
    convolutions from N(0, 0.02^2).
    """
    with set_zero3_state():
        model = auto_class.from_config(config)
    if hasattr(model, "timm_model"):
        config = model.config
        fresh = timm.create_model(config.architecture, num_classes=config.num_labels, **(config.model_args or {}))
        model.timm_model.load_state_dict(fresh.state_dict())
    return model
