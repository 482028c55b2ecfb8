# Copyright 2026 The hf_focal authors. Licensed under the Apache License, Version 2.0.
"""Trustworthy probabilities for Hugging Face classifiers: focal loss and its kin, temperature scaling, metrics."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from .version import __version__


# Where each public name lives. Nothing is imported before it is asked for: `import hf_focal` loads neither torch nor
# transformers.
_NAMES = {
    "calibration": ["TemperatureFit", "describe_confidence", "fit_temperature"],
    "callbacks": ["TrainingDynamicsCallback"],
    "cli": ["parse_arguments"],
    "comparison": ["compare_runs"],
    "corruptions": ["ImageCorruption"],
    "data": ["load_image_dataset", "load_images", "load_text_dataset"],
    "embeddings": ["load_word_vectors", "set_word_vectors", "train_word_tokenizer"],
    "folding": ["UnfoldableError", "apply_temperature", "fold_temperature", "unfold_temperature"],
    "functional": ["adafocal_loss", "brier_loss", "cross_entropy_loss", "dual_focal_loss", "focal_loss"]
    + ["label_smoothing_loss", "mmce_loss", "sample_dependent_focal_loss"],
    "gamma": ["focal_gradient_ratio", "gamma_for_threshold"],
    "hub": ["from_pretrained", "push_to_hub"],
    "intervals": ["PairedComparison", "bootstrap_interval", "paired_bootstrap"],
    "losses": ["LOSSES", "AdaFocalLoss", "BrierLoss", "CalibrationLoss", "CrossEntropyLoss", "DualFocalLoss"]
    + ["FocalLoss", "LabelSmoothingLoss", "MMCELoss", "SampleDependentFocalLoss", "ScheduledFocalLoss"]
    + ["create_loss"],
    "measures": ["BrierDecomposition", "brier_decomposition", "debiased_calibration_error"]
    + ["smooth_calibration_error"],
    "metrics": ["BinStatistics", "accuracy", "adaptive_calibration_error", "bin_statistics", "brier_score"]
    + ["calibration_metrics", "calibration_metrics_from_logits", "classwise_calibration_error", "compute_metrics"]
    + ["expected_calibration_error", "maximum_calibration_error", "negative_log_likelihood"]
    + ["negative_log_likelihood_from_logits"],
    "model_card": ["create_model_card"],
    "modeling": ["create_image_classifier", "create_text_classifier"],
    "networks": ["GlobalPoolingCNNConfig", "GlobalPoolingCNNForSequenceClassification", "TreeLSTMConfig"]
    + ["TreeLSTMForSequenceClassification", "create_global_pooling_cnn", "create_tree_lstm"],
    "optimizers": ["AdagradWithEmbeddingSGD"],
    "ood": ["DetectionResult", "auroc", "auroc_interval", "ood_detection", "ood_scores", "roc_points"],
    "ood_plots": ["risk_coverage_diagram", "roc_diagram", "severity_diagram"],
    "pipelines": ["pipeline"],
    "plots": ["classwise_reliability_diagram", "confidence_histogram", "reliability_diagram"],
    "report": ["RunReport", "finish_run", "prepare_output_dir"],
    "scaling": ["focal_recalibration"],
    "selective": ["ConfidentPredictions", "area_under_risk_coverage", "confident_predictions", "risk_coverage_curve"],
    "stopping": ["KeepBestCallback", "stopping_table"],
    "streaming": ["BatchMetrics", "CalibrationAccumulator"],
    "tokens": ["load_token_dataset", "tokenize_words"],
    "trainer": ["BrierTrainer", "CalibrationTrainer", "FLSDTrainer", "FocalTrainer", "LabelSmoothingTrainer"]
    + ["MMCETrainer"],
    "training_args": ["CalibrationTrainingArguments"],
    "training_plots": ["gradient_norm_histograms", "gradient_ratio_curves", "nll_and_entropy_curves"]
    + ["read_dynamics", "weight_norm_curves"],
    "trees": ["Tree", "TreeTokenizer", "parse_tree", "phrase_classes", "tokenize_trees"],
    "transforms": ["ImageInputs", "ImageTransform", "create_image_inputs"],
}
_MODULE_OF = {name: module for module, names in _NAMES.items() for name in names}

__all__ = ["__version__", *sorted(_MODULE_OF)]


def __getattr__(name: str) -> Any:
    if name not in _MODULE_OF:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(importlib.import_module(f".{_MODULE_OF[name]}", __name__), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})


if TYPE_CHECKING:
    from .calibration import TemperatureFit, describe_confidence, fit_temperature
    from .callbacks import TrainingDynamicsCallback
    from .cli import parse_arguments
    from .comparison import compare_runs
    from .corruptions import ImageCorruption
    from .data import load_image_dataset, load_images, load_text_dataset
    from .embeddings import load_word_vectors, set_word_vectors, train_word_tokenizer
    from .folding import UnfoldableError, apply_temperature, fold_temperature, unfold_temperature
    from .functional import (
        adafocal_loss,
        brier_loss,
        cross_entropy_loss,
        dual_focal_loss,
        focal_loss,
        label_smoothing_loss,
        mmce_loss,
        sample_dependent_focal_loss,
    )
    from .gamma import focal_gradient_ratio, gamma_for_threshold
    from .hub import from_pretrained, push_to_hub
    from .intervals import PairedComparison, bootstrap_interval, paired_bootstrap
    from .losses import (
        LOSSES,
        AdaFocalLoss,
        BrierLoss,
        CalibrationLoss,
        CrossEntropyLoss,
        DualFocalLoss,
        FocalLoss,
        LabelSmoothingLoss,
        MMCELoss,
        SampleDependentFocalLoss,
        ScheduledFocalLoss,
        create_loss,
    )
    from .measures import (
        BrierDecomposition,
        brier_decomposition,
        debiased_calibration_error,
        smooth_calibration_error,
    )
    from .metrics import (
        BinStatistics,
        accuracy,
        adaptive_calibration_error,
        bin_statistics,
        brier_score,
        calibration_metrics,
        calibration_metrics_from_logits,
        classwise_calibration_error,
        compute_metrics,
        expected_calibration_error,
        maximum_calibration_error,
        negative_log_likelihood,
        negative_log_likelihood_from_logits,
    )
    from .model_card import create_model_card
    from .modeling import create_image_classifier, create_text_classifier
    from .networks import (
        GlobalPoolingCNNConfig,
        GlobalPoolingCNNForSequenceClassification,
        TreeLSTMConfig,
        TreeLSTMForSequenceClassification,
        create_global_pooling_cnn,
        create_tree_lstm,
    )
    from .ood import DetectionResult, auroc, auroc_interval, ood_detection, ood_scores, roc_points
    from .ood_plots import risk_coverage_diagram, roc_diagram, severity_diagram
    from .optimizers import AdagradWithEmbeddingSGD
    from .pipelines import pipeline
    from .plots import classwise_reliability_diagram, confidence_histogram, reliability_diagram
    from .report import RunReport, finish_run, prepare_output_dir
    from .scaling import focal_recalibration
    from .selective import (
        ConfidentPredictions,
        area_under_risk_coverage,
        confident_predictions,
        risk_coverage_curve,
    )
    from .stopping import KeepBestCallback, stopping_table
    from .streaming import BatchMetrics, CalibrationAccumulator
    from .tokens import load_token_dataset, tokenize_words
    from .trainer import (
        BrierTrainer,
        CalibrationTrainer,
        FLSDTrainer,
        FocalTrainer,
        LabelSmoothingTrainer,
        MMCETrainer,
    )
    from .training_args import CalibrationTrainingArguments
    from .training_plots import (
        gradient_norm_histograms,
        gradient_ratio_curves,
        nll_and_entropy_curves,
        read_dynamics,
        weight_norm_curves,
    )
    from .transforms import ImageInputs, ImageTransform, create_image_inputs
    from .trees import Tree, TreeTokenizer, parse_tree, phrase_classes, tokenize_trees
