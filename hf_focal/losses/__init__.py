# Copyright 2026 The hf_focal authors. Licensed under the Apache License, Version 2.0.
"""Calibration losses, on PyTorch: one class a file, and `LOSSES`, by name, in the order of these imports."""

# ruff: noqa: I001
from .base import LOSSES as LOSSES, CalibrationLoss as CalibrationLoss
from .base import as_function as as_function, as_loss as as_loss, create_loss as create_loss
from .base import loss_label as loss_label, register_loss as register_loss
from .rows import Rows as Rows, extract_logits as extract_logits, replace_logits as replace_logits
from .cross_entropy import CrossEntropyLoss as CrossEntropyLoss, cross_entropy_loss as cross_entropy_loss
from .label_smoothing import LabelSmoothingLoss as LabelSmoothingLoss, label_smoothing_loss as label_smoothing_loss
from .brier import BrierLoss as BrierLoss, brier_loss as brier_loss
from .mmce import MMCELoss as MMCELoss, mmce_loss as mmce_loss
from .focal import FocalLoss as FocalLoss, focal_loss as focal_loss
from .sample_dependent_focal import SampleDependentFocalLoss as SampleDependentFocalLoss
from .sample_dependent_focal import sample_dependent_focal_loss as sample_dependent_focal_loss
from .scheduled_focal import ScheduledFocalLoss as ScheduledFocalLoss
from .dual_focal import DualFocalLoss as DualFocalLoss, dual_focal_loss as dual_focal_loss
from .adafocal import AdaFocalLoss as AdaFocalLoss, adafocal_loss as adafocal_loss
