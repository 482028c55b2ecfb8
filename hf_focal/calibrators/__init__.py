# Copyright 2026 The hf_focal authors. Licensed under the Apache License, Version 2.0.
"""Maps from logits to calibrated logits, fitted on held-out data, on NumPy."""
