# Copyright 2026 The hf_focal authors. Licensed under the Apache License, Version 2.0.
"""Data sets with labels, and how their samples become inputs of a model: one task a file."""

# The order is that of TASKS.
# isort: off
from .base import TASKS, Task, get_task, register_task, supported_tasks, task_of
from .image import ImageClassification
from .text import TextClassification
from .token import TokenClassification
from .audio import AudioClassification
from .zero_shot import ZeroShotImageClassification
