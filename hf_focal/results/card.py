# Copyright 2026 The hf_focal authors. Licensed under the Apache License, Version 2.0.
"""The model card of a calibrated classifier: metrics before and after temperature scaling, in text and in metadata."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from huggingface_hub import EvalResult, ModelCard, ModelCardData

from ..calibrators.base import calibrator_of, is_known
from ..metrics.base import METRIC_KEYS
from ..networks import ARCHITECTURES, MODEL_TYPES
from ..version import __version__


if TYPE_CHECKING:
    from transformers import PreTrainedConfig


TITLES = {
    "accuracy": "Accuracy",
    "nll": "NLL",
    "brier": "Brier",
    "ece": "ECE",
    "mce": "MCE",
    "adaptive_ece": "AdaECE",
    "classwise_ece": "Classwise-ECE",
}
# Pipeline task, and what the names of its models end in.
TASKS = {
    "image-classification": "ForImageClassification",
    "text-classification": "ForSequenceClassification",
    "token-classification": "ForTokenClassification",
}
_BINNED = ("ece", "mce", "adaptive_ece", "classwise_ece")
_HUB_ID = re.compile(r"[\w.-]+(/[\w.-]+)?")

Intervals = Mapping[str, Mapping[str, tuple[float, float]]]


def infer_task(config: PreTrainedConfig) -> str | None:
    """The pipeline task of the model that a config names, or `None` where it is no classifier of these kinds."""
    names = " ".join(getattr(config, "architectures", None) or [])
    return next((task for task, suffix in TASKS.items() if suffix in names), None)


def unit_of(task: str | None) -> str:
    """What a task counts."""
    return "tokens" if task == "token-classification" else "samples"


def results_table(
    before: Mapping[str, float], after: Mapping[str, float], intervals: Intervals | None = None
) -> list[tuple[str, str, str]]:
    """
    Rows of title, value before and value after: the error and calibration errors in percent, NLL and Brier plain.

    Args:
        before, after (`Mapping[str, float]`):
            What [`calibration_metrics`] returns.
        intervals (`Mapping[str, Mapping[str, tuple[float, float]]]`, *optional*):
            Under `"before"` and `"after"`, `(low, high)` of any of the metrics.
    """

    def shown(key: str, value: float) -> str:
        return f"{value:.4f}" if key in ("nll", "brier") else f"{100 * value:.2f}%"

    def cell(key: str, moment: str) -> str:
        value = (before if moment == "before" else after)[key]
        ends = list(((intervals or {}).get(moment) or {}).get(key, ()))
        if key == "accuracy":
            value, ends = 1 - value, [1 - end for end in reversed(ends)]
        return shown(key, value) + (f" ({' to '.join(shown(key, end) for end in ends)})" if ends else "")

    keys = ("accuracy", "nll", "ece", "adaptive_ece", "classwise_ece", "mce", "brier")
    titles = {**TITLES, "accuracy": "Error"}
    return [(titles[key], cell(key, "before"), cell(key, "after")) for key in keys]


def create_model_card(
    *,
    model_name: str,
    task: str | None,
    dataset: str | None = None,
    before: Mapping[str, float] | None = None,
    after: Mapping[str, float] | None = None,
    calibration: Mapping[str, Any] | None = None,
    n_test: int = 0,
    confidence_sentence: str = "",
    model_id: str = ".",
    n_bins: int = 15,
    test_split: str = "test",
    architecture: str | None = None,
    base_model: str | None = None,
    dataset_config: str | None = None,
    dataset_revision: str | None = None,
    intervals: Intervals | None = None,
    interval_level: float = 0.9,
    license: str | None = None,
    language: str | None = None,
    tags: Sequence[str] | None = None,
    adapter: bool = False,
) -> ModelCard:
    """
    The card as `README.md` of a model repository, with one result per metric, before and after, in its metadata.

    Without `before` and `after` it has no numbers, and without `calibration` it says that the model was never
    calibrated.

    Args:
        model_name (`str`):
            Heading of the card.
        task (`str`):
            Pipeline task, such as `"image-classification"`.
        dataset (`str`, *optional*):
            Name of the data set, or the Hub id. Of a folder only the last part of the path is told.
        before, after (`Mapping[str, float]`, *optional*):
            Metrics on the test split, as [`calibration_metrics`] returns them.
        calibration (`Mapping[str, Any]`, *optional*):
            The model's `config.calibration`.
        n_test (`int`, *optional*):
            Number of test samples, or tokens.
        confidence_sentence (`str`, *optional*):
            What [`describe_confidence`] says.
        model_id (`str`, *optional*, defaults to `"."`):
            What the usage snippet loads: the id on the Hub, or a folder.
        n_bins (`int`, *optional*, defaults to `15`):
            Bins of the calibration errors.
        test_split (`str`, *optional*, defaults to `"test"`):
            Name of the split that the metrics are of.
        architecture (`str`, *optional*):
            timm architecture or model type; those that hf_focal registers need an import before they load, and the
            card says so.
        base_model (`str`, *optional*):
            Hub id of the checkpoint that was fine-tuned.
        dataset_config, dataset_revision (`str`, *optional*):
            Configuration and revision of the data set.
        intervals (`Mapping[str, Mapping[str, tuple[float, float]]]`, *optional*):
            Under `"before"` and `"after"`, `(low, high)` of any of the metrics, by [`bootstrap_interval`] with
            `method="basic"`, of tokens with their sentences as `groups`.
        interval_level (`float`, *optional*, defaults to `0.9`):
            Level of these intervals.
        license, language (`str`, *optional*):
            For the metadata.
        tags (`Sequence[str]`, *optional*):
            Further tags.
        adapter (`bool`, *optional*, defaults to `False`):
            Whether the repository holds an adapter of PEFT for `base_model`, and no whole model.

    Returns:
        `huggingface_hub.ModelCard`: `card.save("README.md")` writes it.
    """
    local = dataset is None or dataset == "digits" or Path(dataset).exists() or not _HUB_ID.fullmatch(dataset)
    dataset_name = (
        _one_line((Path(dataset).name if Path(dataset).exists() else dataset) if dataset else "") or "unnamed"
    )
    measured = before is not None and after is not None and calibration is not None
    results = []
    for moment, values in (("before", before or {}), ("after", after or {})) if measured else ():
        for key in METRIC_KEYS:
            details: dict[str, Any] = {"n_bins": n_bins} if key in _BINNED else {}
            if interval := ((intervals or {}).get(moment) or {}).get(key):
                details |= {"interval": [float(end) for end in interval], "level": interval_level}
            results.append(
                EvalResult(
                    task_type=task or "other",
                    dataset_type="other" if local else str(dataset),
                    dataset_name=dataset_name,
                    dataset_config=dataset_config,
                    dataset_split=test_split,
                    dataset_revision=dataset_revision,
                    metric_type=key,
                    metric_name=f"{TITLES[key]} {moment} temperature",
                    metric_value=float(values[key]),
                    metric_args=details or None,
                )
            )
    card_data = ModelCardData(
        library_name="peft" if adapter else "transformers",
        pipeline_tag=task,
        license=license,
        language=language,
        # Whatever a model was trained with that was only calibrated here is not known.
        tags=["calibration", *(["focal-loss"] if (calibration or {}).get("loss") else []), "hf_focal", *(tags or ())],
        datasets=None if local else [str(dataset)],
        base_model=base_model if base_model and _HUB_ID.fullmatch(base_model) else None,
        model_name=_one_line(model_name),
        eval_results=results or None,
    )
    unit = unit_of(task)
    of_tokens = unit == "tokens"
    record = dict(calibration or {})
    folded = record.get("folded", True)
    calibrator = calibrator_of(record) if record and is_known(record) else None
    noun = calibrator.noun if calibrator else "calibrator"
    parameters = record.get("loss_parameters")
    parameters = parameters if isinstance(parameters, Mapping) else {}
    return ModelCard.from_template(
        card_data,
        template_path=str(Path(__file__).with_name("model_card_template.md")),
        model_name=_one_line(model_name),
        model_id=json.dumps(model_id),
        task=task,
        # What a downloaded config says is as little to be trusted as the name of a data set.
        record={key: _one_line(str(value)) for key, value in record.items()},
        loss_parameters=_one_line(", ".join(f"{key} {value}" for key, value in parameters.items())),
        calibrator=_one_line(str(calibrator or record.get("method", ""))),
        noun=noun,
        named=calibrator.named if calibrator else noun,
        by_hand=calibrator.by_hand("`calibration.json`" if adapter else "`config.calibration`") if calibrator else "",
        folded=folded,
        measured=measured,
        fitted_on_test=record.get("split") == test_split,
        dataset=dataset_name if dataset else None,
        test_split=_one_line(test_split),
        n_test=n_test,
        unit=unit,
        of_tokens=of_tokens,
        n_bins=n_bins,
        interval_sentence=(
            f"In brackets: {interval_level:.0%} bootstrap intervals{', of whole sentences' if of_tokens else ''}; "
            f"those of calibration errors, which few {unit} make look larger than they are, may lie below the value. "
            if intervals
            else ""
        ),
        table=[" | ".join(row) for row in results_table(before or {}, after or {}, intervals)] if measured else [],
        confidence_sentence=confidence_sentence,
        # Importing hf_focal.pipeline registers them as well.
        own=architecture if architecture in (*ARCHITECTURES, *MODEL_TYPES) and folded and not adapter else None,
        adapter=adapter,
        example=_EXAMPLES.get(architecture or "") or _EXAMPLES.get(task or "", "..."),
        version=__version__,
    )


_EXAMPLES = {
    "image-classification": "image.png",
    "text-classification": "A sentence to classify.",
    "token-classification": "Ada Lovelace was born in London.",
    "tree_lstm": "(3 (2 It) (4 (2 is) (4 good)))",
}


def _one_line(text: str) -> str:
    """A name that cannot break out of its line, table cell or code span."""
    return re.sub(r"[\s|`<>\[\]]+", " ", text).strip()
