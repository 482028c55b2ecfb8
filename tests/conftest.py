# Copyright 2026 The hf_focal authors. Licensed under the Apache License, Version 2.0.
"""Fixtures shared by the tests. Nothing here reaches a network: models are built from configs."""

import os
from pathlib import Path

import pytest
import torch
from small_models import build, samples

from hf_focal.tasks import image_checks


ROOT = Path(__file__).resolve().parent.parent


@pytest.fixture(scope="session", autouse=True)
def remembered_images(tmp_path_factory):
    """A folder of its own for what is remembered of images that were looked at."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(image_checks, "FOLDER", tmp_path_factory.mktemp("images"))
        yield


@pytest.fixture(scope="session")
def test_data() -> Path:
    """The folder of real data sets, from HF_FOCAL_TEST_DATA."""
    folder = Path(os.environ.get("HF_FOCAL_TEST_DATA", ROOT / "../shared/data"))
    if not folder.is_dir():
        pytest.skip(f"no test data: HF_FOCAL_TEST_DATA points to {folder}, which is no folder")
    return folder.resolve()


@pytest.fixture
def overconfident():
    """A ViT whose logits are eight times too large, and data labelled by what it says at temperature 1."""
    model = build()
    data = samples("vit", 400)
    pixels = torch.stack([row["pixel_values"] for row in data])
    with torch.no_grad():
        model.classifier.weight.mul_(30)
        logits = model(pixels).logits
        labels = torch.distributions.Categorical(logits=logits).sample()
        model.classifier.weight.mul_(8)
        model.classifier.bias.mul_(8)
    for row, label in zip(data, labels.tolist(), strict=True):
        row["labels"] = label
    return model, data
