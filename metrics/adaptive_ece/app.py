# Copyright 2026 The hf_focal authors. Licensed under the Apache License, Version 2.0.
"""The Space of this metric."""

from hf_focal.cli import evaluate_metric


evaluate_metric.launch(__file__)
