# Copyright 2026 The hf_focal authors. Licensed under the Apache License, Version 2.0.
"""Metrics of accuracy and calibration, on NumPy."""

from .base import (
    METRIC_KEYS as METRIC_KEYS,
)
from .base import (
    BinStatistics as BinStatistics,
)
from .base import (
    accuracy as accuracy,
)
from .base import (
    adaptive_calibration_error as adaptive_calibration_error,
)
from .base import (
    bin_statistics as bin_statistics,
)
from .base import (
    brier_score as brier_score,
)
from .base import (
    calibration_metrics as calibration_metrics,
)
from .base import (
    calibration_metrics_from_logits as calibration_metrics_from_logits,
)
from .base import (
    classwise_calibration_error as classwise_calibration_error,
)
from .base import (
    compute_metrics as compute_metrics,
)
from .base import (
    expected_calibration_error as expected_calibration_error,
)
from .base import (
    maximum_calibration_error as maximum_calibration_error,
)
from .base import (
    negative_log_likelihood as negative_log_likelihood,
)
from .base import (
    negative_log_likelihood_from_logits as negative_log_likelihood_from_logits,
)
