# Copyright 2026 The hf_focal authors. Licensed under the Apache License, Version 2.0.
"""The package as a whole: what importing it costs, its public names, its docstrings, its networks."""

import doctest
import importlib
import pkgutil
import subprocess
import sys

import numpy as np
import pytest
import timm
import torch

import hf_focal


def run(code):
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.strip()


def test_importing_the_package_loads_neither_torch_nor_transformers():
    heavy = "{'torch', 'transformers', 'numpy', 'scipy', 'timm', 'datasets'}"
    assert run(f"import sys, hf_focal; print({heavy} & set(sys.modules))") == "set()"


def test_metrics_and_temperature_fits_need_no_torch():
    code = "import sys, hf_focal; hf_focal.fit_temperature; hf_focal.accuracy; print('torch' in sys.modules)"
    assert run(code) == "False"


def test_a_loss_alone_does_not_load_transformers():
    code = "import sys, hf_focal; hf_focal.FocalLoss(gamma=3.0); print('transformers' in sys.modules)"
    assert run(code) == "False"


def test_every_public_name_can_be_imported():
    for name in hf_focal.__all__:
        assert getattr(hf_focal, name) is not None
    assert set(hf_focal.__all__) <= set(dir(hf_focal))
    with pytest.raises(AttributeError, match="attribute.*FocalLos"):
        _ = hf_focal.FocalLos


MODULES = [module.name for module in pkgutil.walk_packages(hf_focal.__path__, "hf_focal.")]


@pytest.mark.parametrize("name", MODULES)
def test_examples_in_docstrings_are_true(name):
    module = importlib.import_module(name)
    names = {**vars(hf_focal), **{key: getattr(hf_focal, key) for key in hf_focal.__all__}, "np": np, "torch": torch}
    assert doctest.testmod(module, extraglobs=names).failed == 0


def test_some_examples_were_run():
    finder = doctest.DocTestFinder()
    found = [test for name in MODULES for test in finder.find(importlib.import_module(name)) if test.examples]
    assert len(found) > 10


@pytest.mark.parametrize("name", [*hf_focal.__all__])
def test_every_public_name_is_documented(name):
    if name not in ("__version__", "LOSSES"):
        assert getattr(hf_focal, name).__doc__


@pytest.mark.parametrize("name", ["resnet10t", "cifar_resnet8"])
def test_a_network_from_scratch_starts_as_its_own_library_says(name):
    """The wrapper of transformers alone would draw every weight from N(0, 0.02^2)."""
    torch.manual_seed(0)
    model, processor = hf_focal.create_image_classifier(name, ["a", "b"], from_scratch=True, image_size=32)
    own = timm.create_model(name, num_classes=2).state_dict()
    for key, value in model.timm_model.state_dict().items():
        if value.ndim == 4:
            assert value.std() == pytest.approx(own[key].std(), rel=0.25)
            assert not 0.019 < value.std() < 0.021 or 0.019 < own[key].std() < 0.021
    assert model.config.id2label == {0: "a", 1: "b"} and model.config.label2id == {"a": 0, "b": 1}
    assert processor.data_config["input_size"] == (3, 32, 32)


def test_the_size_of_the_data_bounds_the_input_of_a_network_from_scratch():
    for data_size, expected in ((8, 32), (64, 64), (500, 176)):
        model, _ = hf_focal.create_image_classifier("resnet10t", ["a", "b"], from_scratch=True, data_size=data_size)
        assert model.config.pretrained_cfg["input_size"] == [3, expected, expected]


def test_pretrained_weights_that_do_not_exist_are_named():
    with pytest.raises(ValueError, match="no pretrained weights for 'cifar_resnet20'"):
        hf_focal.create_image_classifier("cifar_resnet20", ["a", "b"])


def test_a_local_folder_is_loaded_with_a_new_head_and_its_own_processor(tmp_path):
    model, _ = hf_focal.create_image_classifier("test_resnet", ["a", "b"], from_scratch=True, image_size=32)
    model.save_pretrained(tmp_path)
    again, processor = hf_focal.create_image_classifier(str(tmp_path), ["a", "b", "c"])
    assert again.config.num_labels == 3 and again.config.id2label[2] == "c"
    kept = model.timm_model.state_dict()
    assert torch.equal(again.timm_model.state_dict()["conv1.0.weight"], kept["conv1.0.weight"])
    assert processor.data_config["input_size"] == (3, 32, 32)
    with pytest.raises(ValueError, match="image_size"):
        hf_focal.create_image_classifier(str(tmp_path), ["a", "b"], image_size=64)
