# Copyright 2026 The hf_focal authors. Licensed under the Apache License, Version 2.0.
"""The commands, one a file, and what they have in common."""

import os


# Bars of libraries are as ours: what takes no two seconds needs none. tqdm reads this when it is imported.
os.environ.setdefault("TQDM_DELAY", "2")
