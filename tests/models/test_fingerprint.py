# Copyright 2026 The hf_focal authors. Licensed under the Apache License, Version 2.0.
"""The fingerprint of a head: kept by whatever loads the same weights, and no other head has it."""

import copy
import json

import numpy as np
import pytest
import torch
from small_models import bert, timm_vit
from torch import nn
from transformers import (
    AutoModelForImageClassification,
    AutoModelForSequenceClassification,
    AutoModelForTokenClassification,
    BertForSequenceClassification,
    BertModel,
)

from hf_focal import create_image_classifier, fold_temperature, unfold_temperature
from hf_focal.models.fingerprint import difference, fingerprint
from hf_focal.models.record import calibration_record, check_record, why_of_another_head


def head(num_labels=3, width=64, seed=0, scale=0.02):
    generator = torch.Generator().manual_seed(seed)
    model = nn.Sequential(nn.Linear(width, num_labels))
    with torch.no_grad():
        model[0].weight.copy_(scale * torch.randn(num_labels, width, generator=generator))
        model[0].bias.copy_(scale * torch.randn(num_labels, generator=generator))
    return model


def print_of(model):
    found = json.loads(json.dumps(fingerprint(model, [model[0]])["head"], sort_keys=True))
    assert len(json.dumps(found)) < 700
    return found


def is_same(model, found):
    return difference(model, found) == ""


def quantised(model, bits, per):
    """Weights rounded to the steps of a symmetric grid, as int8 or int4 would be, and float again."""
    weight = model[0].weight
    with torch.no_grad():
        rows = {"tensor": weight.reshape(1, -1), "row": weight, "group": weight.reshape(-1, 32)}[per]
        step = rows.abs().amax(1, keepdim=True) / (2 ** (bits - 1) - 1)
        weight.copy_(((rows / step).round() * step).reshape(weight.shape))
    return model


def by_torch(model):
    return torch.ao.quantization.quantize_dynamic(model, {nn.Linear}, dtype=torch.qint8)


ROUNDED = {
    "as it was": lambda model: model,
    "bfloat16": lambda model: model.bfloat16(),
    "float16": lambda model: model.half(),
    "float64": lambda model: model.double(),
    "bfloat16 and float32 again": lambda model: model.bfloat16().float(),
    "float16 and float32 again": lambda model: model.half().float(),
    "float16, bfloat16 and float32": lambda model: model.half().bfloat16().float(),
    "int8 by torch": by_torch,
    **{f"int{bits} by {per}": lambda model, bits=bits, per=per: quantised(model, bits, per)
       for bits in (8, 4) for per in ("tensor", "row", "group")},
}  # fmt: skip
# Of heads whose weights are as small as 1e-6, float16 leaves few bits.
RANDOM = [(seed, 10.0 ** -(seed % 4)) for seed in range(60)]


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore:torch.quantize_per_tensor")
@pytest.mark.parametrize("name", ROUNDED)
def test_rounding_keeps_it(name):
    for seed, scale in RANDOM:
        model = head(num_labels=2 + seed % 9, seed=seed, scale=scale)
        found = print_of(model)
        assert is_same(ROUNDED[name](copy.deepcopy(model)), found), seed
        other = head(num_labels=2 + seed % 9, seed=seed + 1000, scale=scale)
        assert not is_same(ROUNDED[name](other), found), seed  # a head made anew is another in any precision


def test_what_was_stored_in_half_precision_is_compared_exactly():
    for kind in (torch.bfloat16, torch.float16):
        model = head().to(kind)
        found = print_of(model)
        assert is_same(copy.deepcopy(model).float(), found) and is_same(copy.deepcopy(model).double(), found)
        with torch.no_grad():
            model[0].weight[1, 3] *= 1 + 2 * torch.finfo(kind).eps
        assert not is_same(model, found) and not is_same(model.float(), found)


def stepped(model, rate):
    """One step of gradient descent on random data."""
    generator = torch.Generator().manual_seed(5)
    logits = model(torch.randn(8, 64, generator=generator))
    nn.functional.cross_entropy(logits, torch.arange(8) % logits.shape[1]).backward()
    torch.optim.SGD(model.parameters(), lr=rate).step()
    return model


def edited(model, change):
    with torch.no_grad():
        change(model[0])
    return model


OTHERS = {
    "the last bit of one weight": lambda m: edited(
        m, lambda one: one.weight[0, 0].copy_(torch.nextafter(one.weight[0, 0], torch.tensor(9.0)))
    ),
    "a step of a tiny rate": lambda m: stepped(m, 1e-6),
    "a bias": lambda m: edited(m, lambda one: one.bias.add_(1e-6)),
    "a constant": lambda m: edited(m, lambda one: one.weight.add_(1e-6)),
    "a temperature": lambda m: edited(m, lambda one: (one.weight.div_(1.001), one.bias.div_(1.001))),
    "classes in another order": lambda m: edited(
        m, lambda one: (one.weight.copy_(one.weight.flip(0)), one.bias.copy_(one.bias.flip(0)))
    ),
    "inputs in another order": lambda m: edited(m, lambda one: one.weight.copy_(one.weight.flip(1))),
    "nothing": lambda m: edited(m, lambda one: one.weight.zero_()),
    "another sign": lambda m: edited(m, lambda one: one.weight.neg_()),
    "no bias": lambda m: nn.Sequential(nn.Linear(64, 3, bias=False)),
    "one class more": lambda m: head(4),
}  # fmt: skip


@pytest.mark.parametrize("name", OTHERS)
def test_every_change_in_full_precision_is_seen(name):
    model = head()
    assert not is_same(OTHERS[name](copy.deepcopy(model)), print_of(model))


@pytest.mark.parametrize("rounding", [lambda m: m.bfloat16(), lambda m: quantised(m, 8, "row")])
def test_a_change_beyond_rounding_is_seen_in_coarse_weights(rounding):
    for seed in range(60):
        model = head(seed=seed)
        found = print_of(model)
        edited(model, lambda one: one.weight.add_(0.1 * 0.02 * torch.randn(one.weight.shape)))
        assert not is_same(rounding(model), found), seed


def test_the_numbers_are_the_norm_and_projections_on_waves():
    model = head(num_labels=4, width=10)
    weight, bias = (value.detach().double().numpy() for value in (model[0].weight, model[0].bias))
    found = print_of(model)["modules"][0]
    for values, name in ((weight, "weight"), (bias[:, None], "bias")):
        expected = [np.sqrt((values**2).sum())]
        for prime in (2, 3, 5, 7, 11, 13, 17, 19):
            total = 0.0
            for row in range(values.shape[0]):
                for column in range(values.shape[1]):
                    wave = 2 * np.cos((row + 1) ** 2 * prime**0.5) * np.cos((column + 1.5) ** 2 * prime**0.5)
                    total += wave * values[row, column]
            expected.append(total)
        assert found[name]["numbers"] == pytest.approx(expected, rel=1e-10)
    assert found["weight"]["shape"] == [4, 10] and found["weight"]["bits"] == 24
    assert print_of(model.bfloat16())["modules"][0]["weight"]["bits"] == 8
    assert print_of(head().half())["modules"][0]["weight"]["bits"] == 11


# ---- Of models ------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def calibrated(tmp_path_factory):
    folder = tmp_path_factory.mktemp("calibrated")
    torch.manual_seed(0)
    model = fold_temperature(bert(), 2.5)
    model.save_pretrained(folder / "whole")
    model.save_pretrained(folder / "shards", max_shard_size="10KB")
    assert len([*(folder / "shards").glob("*.safetensors")]) > 1
    return folder


LOADED = {
    "bfloat16": {"dtype": torch.bfloat16},
    "float16": {"dtype": torch.float16},
    "a device": {"device_map": "cpu"},
    "off the disk": {"device_map": {"bert": "cpu", "classifier": "disk"}},
}


@pytest.mark.parametrize("files", ["whole", "shards"])
@pytest.mark.parametrize("how", LOADED)
def test_however_a_checkpoint_is_loaded_it_has_its_record(calibrated, how, files, tmp_path):
    options = {**LOADED[how], **({"offload_folder": str(tmp_path)} if how == "off the disk" else {})}
    model = AutoModelForSequenceClassification.from_pretrained(calibrated / files, **options)
    assert calibration_record(model)["temperature"] == 2.5
    if how == "bfloat16":
        model.save_pretrained(tmp_path / "again")
        again = AutoModelForSequenceClassification.from_pretrained(tmp_path / "again", dtype=torch.float32)
        assert calibration_record(again)["temperature"] == 2.5
        assert calibration_record(unfold_temperature(again))["folded"] is False


def test_wrappers_and_subclasses_have_it_too(calibrated):
    class Mine(BertForSequenceClassification):
        pass

    class BertForMine(BertForSequenceClassification):
        pass

    for cls in (Mine, BertForMine):
        model = cls.from_pretrained(calibrated / "whole")
        assert calibration_record(model)["temperature"] == 2.5
    model.score, model.classifier = model.classifier, None  # names of modules do not matter
    assert calibration_record(model)["temperature"] == 2.5


def test_what_cannot_be_read_is_not_called_another_head(calibrated):
    config = AutoModelForSequenceClassification.from_pretrained(calibrated / "whole").config
    with torch.device("meta"):
        empty = BertForSequenceClassification(config)
    assert why_of_another_head(empty, config.calibration) == ""
    part = BertForSequenceClassification(config)
    assert "weights are others" in why_of_another_head(part, config.calibration)
    part.bert.pooler.dense.weight.ds_id = 0  # DeepSpeed has the rest of it
    assert why_of_another_head(part, config.calibration) == "" and fingerprint(part) == {}


def test_the_head_of_another_kind_of_model_is_another_one(calibrated):
    tokens = AutoModelForTokenClassification.from_pretrained(calibrated / "whole")
    kept = AutoModelForSequenceClassification.from_pretrained(calibrated / "whole")
    assert torch.equal(tokens.classifier.weight, kept.classifier.weight)  # of the same name and size, so it is loaded
    assert "ForSequenceClassification" in why_of_another_head(tokens, tokens.config.calibration)
    body = BertModel.from_pretrained(calibrated / "whole")
    assert "none of that size" in why_of_another_head(body, body.config.calibration)


@pytest.mark.parametrize("name", ["deit_tiny_distilled_patch16_224", "test_convnext"])
def test_timm_networks_with_one_head_or_two(name, tmp_path):
    model, _ = create_image_classifier(name, [*"abc"], from_scratch=True, image_size=32)
    if name.startswith("deit"):
        assert len(fold_temperature(model, 2.0).config.calibration["head"]["modules"]) == 2
    else:
        fold_temperature(model, 2.0)
    model.save_pretrained(tmp_path)
    again = AutoModelForImageClassification.from_pretrained(tmp_path, dtype=torch.bfloat16)
    assert calibration_record(again)["temperature"] == 2.0
    with torch.no_grad():
        [*again.parameters()][-1].add_(1.0)
    assert calibration_record(again) is None


def test_a_head_in_place_of_another_is_another_one():
    model = fold_temperature(bert(), 2.0)
    model.classifier = nn.Sequential(nn.Linear(32, 32), nn.ReLU(), nn.Linear(32, 5))
    assert "weights are others" in why_of_another_head(model, model.config.calibration)
    del model.config.calibration
    fold_temperature(model, 3.0)
    assert calibration_record(model)["temperature"] == 3.0
    with torch.no_grad():
        model.classifier[2].bias.add_(1e-3)
    assert calibration_record(model) is None


def test_a_model_without_a_linear_head_has_one_of_its_last_weights():
    model = timm_vit()
    model.timm_model.head = nn.Identity()
    found = fingerprint(model)["head"]
    last = [module for module in model.modules() if isinstance(module, nn.Linear)][-1]
    assert [one["weight"]["shape"] for one in found["modules"]] == [[*last.weight.shape]]
    assert difference(model, found) == ""
    with torch.no_grad():
        last.weight.mul_(1.01)
    assert "weights are others" in difference(model, found)


@pytest.mark.parametrize(
    "wrong",
    [3, [], {}, {"kind": None, "modules": []}, {"kind": 4, "modules": [{}]},
     {"kind": None, "modules": [{"weight": 3}]},
     {"kind": None, "modules": [{"weight": {"shape": [3], "bits": 24, "numbers": [1.0]}}]},
     {"kind": None, "modules": [{"weight": {"shape": [3], "bits": None, "numbers": [1.0] * 9}}]},
     {"kind": None, "modules": [{"weight": {"shape": ["3"], "bits": 8, "numbers": [1.0] * 9}}]},
     {"kind": None, "modules": [{"weight": {"shape": [3], "bits": 8, "numbers": [1.0] * 9}}], "adapter": 4}],
)  # fmt: skip
def test_a_malformed_one_is_refused_in_words(wrong):
    with pytest.raises(ValueError, match=r"here\['head'\] must be the fingerprint of a head"):
        check_record({"temperature": 2.0, "folded": True, "head": wrong}, "here")
