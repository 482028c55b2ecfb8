# Copyright 2026 The hf_focal authors. Licensed under the Apache License, Version 2.0.
"""Fixtures shared by the tests. Nothing here reaches a network: models are built from configs."""

import os
from pathlib import Path

import pytest


ROOT = Path(__file__).resolve().parent.parent


@pytest.fixture(scope="session")
def test_data() -> Path:
    """The folder of real data sets, from HF_FOCAL_TEST_DATA."""
    folder = Path(os.environ.get("HF_FOCAL_TEST_DATA", ROOT / "../shared/data"))
    if not folder.is_dir():
        pytest.skip(f"no test data: HF_FOCAL_TEST_DATA points to {folder}, which is no folder")
    return folder.resolve()
