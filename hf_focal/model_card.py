# Copyright 2026 The hf_focal authors. Licensed under the Apache License, Version 2.0.
"""The model card of a calibrated classifier: metrics before and after temperature scaling, in text and in metadata."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from huggingface_hub import EvalResult, ModelCard, ModelCardData

from .metrics import METRIC_KEYS
from .networks import ARCHITECTURES
from .version import __version__


TITLES = {
    "accuracy": "Accuracy",
    "nll": "NLL",
    "brier": "Brier",
    "ece": "ECE",
    "mce": "MCE",
    "adaptive_ece": "AdaECE",
    "classwise_ece": "Classwise-ECE",
}
_EXAMPLES = {"image-classification": "image.png", "text-classification": "A sentence to classify."}


def results_table(before: Mapping[str, float], after: Mapping[str, float]) -> list[tuple[str, str, str]]:
    """
    Rows of title, value before and value after: the error and calibration errors in percent, NLL and Brier plain.

    Args:
        before, after (`Mapping[str, float]`):
            What [`calibration_metrics`] returns.
    """

    def shown(key: str, value: float) -> str:
        return f"{value:.4f}" if key in ("nll", "brier") else f"{100 * value:.2f}%"

    rows = [("Error", shown("error", 1 - before["accuracy"]), shown("error", 1 - after["accuracy"]))]
    for key in ("nll", "ece", "adaptive_ece", "classwise_ece", "mce", "brier"):
        rows.append((TITLES[key], shown(key, before[key]), shown(key, after[key])))
    return rows


def create_model_card(
    *,
    model_name: str,
    task: str,
    dataset: str,
    before: Mapping[str, float],
    after: Mapping[str, float],
    calibration: Mapping[str, Any],
    n_test: int,
    confidence_sentence: str,
    model_id: str = ".",
    n_bins: int = 15,
    test_split: str = "test",
    architecture: str | None = None,
    base_model: str | None = None,
) -> ModelCard:
    """
    The card as `README.md` of a model repository, with one result per metric, before and after, in its metadata.

    Args:
        model_name (`str`):
            Heading of the card.
        task (`str`):
            Pipeline task, such as `"image-classification"`.
        dataset (`str`):
            Name of the data set, or the Hub id.
        before, after (`Mapping[str, float]`):
            Metrics on the test split, as [`calibration_metrics`] returns them.
        calibration (`Mapping[str, Any]`):
            The model's `config.calibration`.
        n_test (`int`):
            Number of test samples.
        confidence_sentence (`str`):
            What [`describe_confidence`] says.
        model_id (`str`, *optional*, defaults to `"."`):
            What the usage snippet loads: the id on the Hub, or a folder.
        n_bins (`int`, *optional*, defaults to `15`):
            Bins of the calibration errors.
        test_split (`str`, *optional*, defaults to `"test"`):
            Name of the split that the metrics are of.
        architecture (`str`, *optional*):
            timm architecture; those that hf_focal registers need an import before they load, and the card says so.
        base_model (`str`, *optional*):
            Hub id of the checkpoint that was fine-tuned.

    Returns:
        `huggingface_hub.ModelCard`: `card.save("README.md")` writes it.
    """
    dataset_name = _one_line(dataset)
    local = Path(dataset).exists() or dataset == "digits"
    results = [
        EvalResult(
            task_type=task,
            dataset_type="other" if local else dataset_name,
            dataset_name=dataset_name,
            dataset_split=test_split,
            metric_type=key,
            metric_name=f"{TITLES[key]} {moment} temperature",
            metric_value=float(values[key]),
        )
        for moment, values in (("before", before), ("after", after))
        for key in METRIC_KEYS
    ]
    card_data = ModelCardData(
        library_name="transformers",
        pipeline_tag=task,
        tags=["calibration", "focal-loss", "hf_focal"],
        datasets=None if local else [dataset_name],
        base_model=base_model,
        model_name=_one_line(model_name),
        eval_results=results,
    )
    temperature, folded = calibration["temperature"], calibration["folded"]
    own = architecture in ARCHITECTURES
    return ModelCard.from_template(
        card_data,
        template_path=str(Path(__file__).with_name("model_card_template.md")),
        model_name=_one_line(model_name),
        task=task,
        dataset=dataset_name,
        test_split=test_split,
        n_test=n_test,
        n_bins=n_bins,
        table="\n".join("| " + " | ".join(row) + " |" for row in results_table(before, after)),
        calibration_sentence=f"where it says 80%, it means to be right 80% of the time (T = {temperature:.4g}).",
        confidence_sentence=confidence_sentence,
        folding_sentence=(
            f"the temperature {temperature:.4g} is folded into the classification head."
            if folded
            else f"call `hf_focal.focal_recalibration(logits, {calibration['gamma']:.4g}, {temperature:.4g})`."
            if calibration.get("method") == "focal"
            else f"divide the logits by the temperature {temperature:.4g} first (`config.calibration`)."
        ),
        import_line=f"\nimport hf_focal.networks  # registers {architecture}\n\n" if own else "",
        model_id=model_id,
        example=_EXAMPLES.get(task, "..."),
        loss_sentence=f"the loss `{calibration.get('loss', 'unknown')}`",
        calibration_split=calibration.get("split", "unknown"),
        n_calibration=calibration.get("n_samples", "unknown"),
        version=__version__,
    )


def _one_line(text: str) -> str:
    """A name that cannot break out of its line, table cell or code span."""
    return re.sub(r"[\s|`<>\[\]]+", " ", text).strip()
