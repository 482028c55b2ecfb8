# Copyright 2026 The hf_focal authors. Licensed under the Apache License, Version 2.0.
"""Folding a temperature into real heads: exact, undone exactly, never twice, and readable without this library."""

import json
import math
import subprocess
import sys
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from scipy.special import softmax
from small_models import without_head
from transformers import (
    AutoModelForImageClassification,
    AutoModelForSequenceClassification,
    BertConfig,
    DistilBertConfig,
    GPT2Config,
    ResNetConfig,
    RobertaConfig,
    SwinConfig,
    ViTConfig,
    ViTForImageClassification,
)

from hf_focal import create_image_classifier, fold_temperature, unfold_temperature
from hf_focal.calibrators import TemperatureScaling
from hf_focal.models.apply import pending_calibrator
from hf_focal.models.record import calibration_record


SMALL = {"hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 32}
TEXT = {"vocab_size": 50, **SMALL}
CONFIGS = {
    "vit": lambda: ViTConfig(image_size=16, patch_size=8, **SMALL),
    "resnet": lambda: ResNetConfig(embedding_size=8, hidden_sizes=[8, 8, 8, 8], depths=[1, 1, 1, 1]),
    "swin": lambda: SwinConfig(image_size=32, embed_dim=8, depths=[1, 1], num_heads=[1, 2], window_size=4),
    "bert": lambda: BertConfig(**TEXT),
    "roberta": lambda: RobertaConfig(**TEXT),
    "distilbert": lambda: DistilBertConfig(vocab_size=50, dim=32, n_layers=1, n_heads=2, hidden_dim=32),
    "gpt2": lambda: GPT2Config(vocab_size=50, n_embd=32, n_layer=1, n_head=2),
}
TIMM = ["test_resnet", "test_vit", "test_convnext", "test_efficientnet", "test_mambaout"]
TIMM += ["deit_tiny_distilled_patch16_224"]  # two heads, averaged
IMAGES = ("vit", "resnet", "swin")


def transformers_model(family, num_labels=5):
    torch.manual_seed(0)
    config = CONFIGS[family]()
    config.num_labels = num_labels
    auto = AutoModelForImageClassification if family in IMAGES else AutoModelForSequenceClassification
    return randomize_head(auto.from_config(config).eval())


def timm_model(name, num_labels=5):
    torch.manual_seed(0)
    model, _ = create_image_classifier(
        name, [f"class {i}" for i in range(num_labels)], from_scratch=True, image_size=64
    )
    return randomize_head(model.eval())


def randomize_head(model):
    """Heads start at almost 0 in some families; logits of unit scale make the comparison mean something."""
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.shape[:1] == (model.config.num_labels,):
                parameter.normal_()
    return model


def inputs_for(model):
    generator = torch.Generator().manual_seed(1)
    if model.main_input_name == "input_ids":
        return {"input_ids": torch.randint(3, 50, (1, 7), generator=generator)}
    size = getattr(model.config, "image_size", 64)
    return {"pixel_values": torch.randn(3, 3, size, size, generator=generator)}


def logits_of(model, inputs):
    with torch.no_grad():
        return model(**inputs).logits.double().numpy()


ALL = [*((transformers_model, family) for family in CONFIGS), *((timm_model, name) for name in TIMM)]


@pytest.mark.parametrize(("build", "name"), ALL, ids=[name for _, name in ALL])
@pytest.mark.parametrize("temperature", [0.4, 2.7])
def test_fold_divides_the_logits_and_unfold_restores_them(build, name, temperature):
    model = build(name)
    inputs = inputs_for(model)
    before = logits_of(model, inputs)
    assert np.ptp(before) > 0.1
    weights = {key: value.clone() for key, value in model.state_dict().items()}
    assert fold_temperature(model, temperature) is model
    assert np.abs(logits_of(model, inputs) - before / temperature).max() < 1e-5 * np.abs(before).max()
    record = {"method": "temperature", "temperature": temperature, "folded": True}
    assert without_head(model.config.calibration) == record
    assert pending_calibrator(model) is None
    changed = [key for key, value in model.state_dict().items() if not torch.equal(value, weights[key])]
    assert 1 <= len(changed) <= 4  # weight and bias of a head, or of the two of a distilled network
    unfold_temperature(model)
    assert np.abs(logits_of(model, inputs) - before).max() < 1e-5 * np.abs(before).max()
    assert model.config.calibration["folded"] is False
    assert pending_calibrator(model) == TemperatureScaling(temperature)
    assert not model.training


def test_folding_twice_is_refused_and_leaves_the_weights_alone():
    model = transformers_model("vit")
    fold_temperature(model, 2.0)
    weight = model.classifier.weight.clone()
    with pytest.raises(ValueError, match="calibrated already.*unfold_temperature"):
        fold_temperature(model, 3.0)
    assert torch.equal(model.classifier.weight, weight)


def test_unfolding_what_is_not_folded_is_refused():
    model = transformers_model("vit")
    with pytest.raises(ValueError, match="no folded temperature"):
        unfold_temperature(model)
    fold_temperature(model, 2.0)
    unfold_temperature(model)
    with pytest.raises(ValueError, match="no folded temperature"):
        unfold_temperature(model)
    fold_temperature(model, 2.0)
    assert model.config.calibration["folded"] is True


def test_the_record_is_written_and_survives_a_round_trip(tmp_path):
    model = transformers_model("vit")
    fold_temperature(model, 1.5, record={"criterion": "ece", "loss": "flsd-53", "split": "validation", "n_samples": 9})
    model.save_pretrained(tmp_path)
    again = ViTForImageClassification.from_pretrained(tmp_path)
    assert again.config.calibration == model.config.calibration
    assert again.config.calibration["n_samples"] == 9
    inputs = inputs_for(model)
    assert np.array_equal(logits_of(again.eval(), inputs), logits_of(model, inputs))
    with pytest.raises(ValueError, match="calibrated already"):
        fold_temperature(again, 1.5)


class Scaled(ViTForImageClassification):
    """A head behind a normalisation: scaling its weights does not scale the logits."""

    def forward(self, *args, **kwargs):
        outputs = super().forward(*args, **kwargs)
        outputs.logits = torch.nn.functional.normalize(outputs.logits, dim=-1)
        return outputs


class Shifted(ViTForImageClassification):
    """Something is added after the head."""

    def forward(self, *args, **kwargs):
        outputs = super().forward(*args, **kwargs)
        outputs.logits = outputs.logits + torch.arange(self.config.num_labels)
        return outputs


@pytest.mark.parametrize("cls", [Scaled, Shifted])
def test_a_head_that_does_not_scale_the_logits_is_refused_and_restored(cls):
    config = CONFIGS["vit"]()
    config.num_labels = 5
    model = cls(config)
    with torch.no_grad():  # a head so small that a comparison of trained logits would prove nothing
        model.classifier.weight.zero_()
        model.classifier.bias.zero_()
    weights = {key: value.clone() for key, value in model.state_dict().items()}
    with pytest.raises(ValueError, match="Cannot fold.*fold=False"):
        fold_temperature(model, 2.0)
    assert all(torch.equal(value, weights[key]) for key, value in model.state_dict().items())
    assert getattr(model.config, "calibration", None) is None
    assert model.training  # the mode it came in


@pytest.mark.parametrize("temperature", [0, -1.0, math.nan, math.inf, 1e300, "1.5", None, [1.5], True])
def test_a_temperature_that_is_none_is_refused(temperature):
    with pytest.raises(ValueError, match="temperature must be a number"):
        fold_temperature(transformers_model("vit"), temperature)


@pytest.mark.parametrize(
    "record",
    [
        {"temperature": 0, "folded": True}, {"temperature": "2", "folded": True}, {"temperature": 2.0},
        {"folded": True}, {"temperature": math.nan, "folded": False}, {"temperature": 2.0, "folded": "yes"}, 2.0,
    ],
)  # fmt: skip
def test_a_strange_record_in_a_config_is_refused(record):
    with pytest.raises(ValueError, match=r"config\.calibration"):
        calibration_record(SimpleNamespace(config=SimpleNamespace(calibration=record)))


def test_a_model_without_labels_is_refused():
    with pytest.raises(ValueError, match="num_labels"):
        fold_temperature(torch.nn.Linear(3, 3), 2.0)


def test_an_input_that_no_probe_is_made_for_can_be_given():
    model = transformers_model("vit")
    model.main_input_name = "input_features"
    with pytest.raises(ValueError, match="inputs="):
        fold_temperature(model, 2.0)
    fold_temperature(model, 2.0, inputs=inputs_for(model))
    assert model.config.calibration["folded"] is True


LOADER = """
import json, sys
sys.modules["hf_focal"] = None  # importing it fails from here on
import numpy as np, torch
from transformers import AutoModelForImageClassification, AutoModelForSequenceClassification
folder, kind = sys.argv[1:]
auto = AutoModelForImageClassification if kind == "image" else AutoModelForSequenceClassification
model = auto.from_pretrained(folder).eval()
inputs = {key: torch.from_numpy(value) for key, value in np.load(folder + "/inputs.npz").items()}
with torch.no_grad():
    print(json.dumps(model(**inputs).logits.softmax(-1).double().tolist()))
"""


@pytest.mark.parametrize(
    ("build", "name"), [(transformers_model, "bert"), (transformers_model, "vit"), (timm_model, "test_resnet")]
)
def test_a_folded_model_is_calibrated_without_this_library(tmp_path, build, name):
    model = build(name)
    inputs = inputs_for(model)
    expected = softmax(logits_of(model, inputs) / 3.3, axis=-1)
    fold_temperature(model, 3.3).save_pretrained(tmp_path)
    np.savez(tmp_path / "inputs.npz", **{key: value.numpy() for key, value in inputs.items()})
    kind = "text" if name == "bert" else "image"
    command = [sys.executable, "-c", LOADER, str(tmp_path), kind]
    output = subprocess.run(command, capture_output=True, text=True, check=True, cwd=tmp_path).stdout
    assert np.abs(np.array(json.loads(output)) - expected).max() < 1e-6
