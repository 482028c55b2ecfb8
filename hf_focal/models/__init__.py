# Copyright 2026 The hf_focal authors. Licensed under the Apache License, Version 2.0.
"""What is done to a model: created, its head found, a calibrator folded into it or applied behind it."""
