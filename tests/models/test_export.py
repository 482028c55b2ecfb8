# Copyright 2026 The hf_focal authors. Licensed under the Apache License, Version 2.0.
"""Folded models exported by torch.export and to ONNX: the same calibrated probabilities, without transformers."""

import numpy as np
import onnxruntime
import pytest
import torch
from scipy.special import softmax
from transformers import (
    BertConfig,
    BertForSequenceClassification,
    DeiTConfig,
    DeiTForImageClassificationWithTeacher,
    ViTConfig,
    ViTForImageClassification,
)

from hf_focal import create_image_classifier, fold_calibrator
from hf_focal.calibrators import MatrixScaling, PriorShift, TemperatureScaling
from hf_focal.models.fold import put_on_top


TEMPERATURE = 2.5
NUM_LABELS = 5
SMALL = {"hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 32}


def timm_resnet():
    return create_image_classifier("test_resnet", [*"abcde"], from_scratch=True, image_size=32)[0]


def vit():
    return ViTForImageClassification(ViTConfig(image_size=16, patch_size=8, num_labels=NUM_LABELS, **SMALL))


def bert():
    return BertForSequenceClassification(BertConfig(vocab_size=50, num_labels=NUM_LABELS, **SMALL))


def two_heads():
    config = DeiTConfig(image_size=16, patch_size=8, num_labels=NUM_LABELS, **SMALL)
    return DeiTForImageClassificationWithTeacher(config)


MATRIX = np.eye(NUM_LABELS) + 0.2 * np.random.default_rng(0).normal(size=(NUM_LABELS, NUM_LABELS))
SHIFT, PRIOR = np.linspace(-1, 1, NUM_LABELS), np.array([0.1, 0.1, 0.1, 0.3, 0.4])


def fold(model):
    """A temperature; into two heads a matrix, and other class frequencies on top. What it does to logits, in NumPy."""
    if not isinstance(model, DeiTForImageClassificationWithTeacher):
        fold_calibrator(model, TemperatureScaling(TEMPERATURE))
        return lambda logits: logits / TEMPERATURE
    fold_calibrator(model, MatrixScaling(TEMPERATURE, tuple(map(tuple, MATRIX.tolist())), tuple(SHIFT.tolist())))
    put_on_top(model, PriorShift((1 / NUM_LABELS,) * NUM_LABELS, tuple(PRIOR.tolist())))
    return lambda logits: logits / TEMPERATURE @ MATRIX.T + SHIFT + np.log(PRIOR)


class Probabilities(torch.nn.Module):
    """What a server runs: the plain softmax of the model's logits."""

    def __init__(self, model):
        super().__init__()
        self.model = model

    def forward(self, *inputs):
        return self.model(**dict(zip(self.names, inputs, strict=True))).logits.softmax(-1)


def inputs_for(model, count):
    generator = torch.Generator().manual_seed(count)
    if model.main_input_name == "input_ids":
        tokens = torch.randint(3, 50, (count, 7), generator=generator)
        mask = torch.ones_like(tokens)
        mask[0, 5:] = 0
        return {"input_ids": tokens, "attention_mask": mask}
    size = getattr(model.config, "image_size", 32)
    return {"pixel_values": torch.randn(count, 3, size, size, generator=generator)}


@pytest.fixture(
    params=[timm_resnet, vit, bert, pytest.param(two_heads, marks=pytest.mark.slow)], ids=lambda build: build.__name__
)
def folded(request):
    """A folded model that answers with probabilities, inputs of two batch sizes, and what it has to answer."""
    torch.manual_seed(0)
    model = request.param().eval()
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.shape[:1] == (NUM_LABELS,):
                parameter.normal_()
        batches = [inputs_for(model, count) for count in (3, 5)]
        logits = [model(**inputs).logits.double().numpy() for inputs in batches]
    calibrated = fold(model)
    expected = [softmax(calibrated(rows), axis=-1) for rows in logits]
    assert all(np.abs(rows - softmax(z, axis=-1)).max() > 0.02 for rows, z in zip(expected, logits, strict=True))
    server = Probabilities(model).eval()
    server.names = list(batches[0])
    return server, batches, expected


def dynamic_shapes(inputs):
    batch = torch.export.Dim("batch")
    return {"inputs": tuple({0: batch} for _ in inputs)}


def test_torch_export_keeps_the_calibrated_probabilities(folded, tmp_path):
    server, batches, expected = folded
    program = torch.export.export(server, tuple(batches[0].values()), dynamic_shapes=dynamic_shapes(batches[0]))
    torch.export.save(program, tmp_path / "model.pt2")
    module = torch.export.load(tmp_path / "model.pt2").module()
    for inputs, rows in zip(batches, expected, strict=True):
        with torch.no_grad():
            assert np.abs(module(*inputs.values()).numpy() - rows).max() < 1e-5


@pytest.mark.filterwarnings("ignore:# The axis name. batch will not be used:UserWarning")  # torch, of a shared axis
def test_onnx_keeps_the_calibrated_probabilities(folded, tmp_path):
    server, batches, expected = folded
    torch.onnx.export(
        server, tuple(batches[0].values()), tmp_path / "model.onnx", dynamo=True, verbose=False,
        input_names=list(batches[0]), output_names=["probabilities"], dynamic_shapes=dynamic_shapes(batches[0]),
    )  # fmt: skip
    session = onnxruntime.InferenceSession(tmp_path / "model.onnx", providers=["CPUExecutionProvider"])
    for inputs, rows in zip(batches, expected, strict=True):
        (probabilities,) = session.run(None, {name: value.numpy() for name, value in inputs.items()})
        assert np.abs(probabilities - rows).max() < 1e-5
