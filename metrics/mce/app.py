# Copyright 2026 The hf_focal authors. Licensed under the Apache License, Version 2.0.
"""The Space of this metric."""

from pathlib import Path

from hf_focal.cli import space


space.launch(Path(__file__).with_name("mce.py"))
