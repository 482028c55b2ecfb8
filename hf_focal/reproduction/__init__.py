# Copyright 2026 The hf_focal authors. Licensed under the Apache License, Version 2.0.
"""The tables and figures of the paper from many runs: a grid of them, and pages that are made from what they leave."""
