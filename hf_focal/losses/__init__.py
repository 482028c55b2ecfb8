# Copyright 2026 The hf_focal authors. Licensed under the Apache License, Version 2.0.
"""Calibration losses, on PyTorch: one class a file, and `LOSSES`, by name."""
