# Copyright 2026 The hf_focal authors. Licensed under the Apache License, Version 2.0.
"""Data sets with labels, and how their samples become inputs of a model: one task a file."""
