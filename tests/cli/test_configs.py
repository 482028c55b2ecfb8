# Copyright 2026 The hf_focal authors. Licensed under the Apache License, Version 2.0.
"""The recipes in `configs/`: the paper's settings, learning rates and gradients, and each run at a tiny scale."""

import dataclasses
import json
import re
import runpy
import shlex
import sys

import numpy as np
import pytest
import torch
import yaml
from conftest import ROOT
from datasets import ClassLabel, Dataset, DatasetDict, Features, Image
from PIL import Image as PILImage

from hf_focal import CalibrationTrainer, CalibrationTrainingArguments, create_image_classifier, create_loss
from hf_focal.cli import run_image
from hf_focal.cli.arguments import TrainArguments, parse_arguments


SCRIPT = str(ROOT / "scripts" / "run_image.py")
CONFIGS = ("cifar10", "cifar100", "tiny_imagenet")


def parsed(name, *flags):
    types = [run_image.ModelArguments, run_image.DataArguments, TrainArguments]
    return parse_arguments(types, ["--config", str(ROOT / "configs" / f"{name}.yaml"), "--use_cpu", "true", *flags])


@pytest.mark.parametrize("name", CONFIGS)
def test_settings_are_those_of_the_paper(name):
    model, data, args = parsed(name)
    tiny = name == "tiny_imagenet"
    assert (args.optim, args.optim_args, args.weight_decay) == ("sgd", "momentum=0.9", 5e-4)
    assert args.decay_all_parameters and args.loss_reduction == "sum" and args.max_grad_norm == 2
    assert args.per_device_train_batch_size == (64 if tiny else 128) and args.gradient_accumulation_steps == 1
    assert (args.num_train_epochs, args.lr_milestones) == ((100, [40, 60]) if tiny else (350, [150, 250]))
    assert (args.learning_rate, args.warmup_steps, args.load_best_model_at_end) == (0.1, 0, False)
    assert (data.augmentation, data.crop_padding, data.split_seed) == ("crop-flip", 4, 1)
    assert (data.validation_size, data.holdout) == ((None, 0.1) if tiny else (5000, 0.1))
    assert model.image_mean == ([0.485, 0.456, 0.406] if tiny else [0.4914, 0.4822, 0.4465])
    assert model.image_std == ([0.229, 0.224, 0.225] if tiny else [0.2023, 0.1994, 0.2010])
    assert model.model_name_or_path == ("tiny_imagenet_resnet50" if tiny else "cifar_resnet50")


@pytest.mark.parametrize("name", CONFIGS)
def test_optimizer_and_schedule_are_those_of_the_paper(name, tmp_path):
    """What PyTorch is given, and the learning rate of every epoch."""
    tiny = name == "tiny_imagenet"
    _, _, args = parsed(name, "--output_dir", str(tmp_path), "--eval_strategy", "no")
    model, _ = create_image_classifier("cifar_resnet8", ["a", "b"], from_scratch=True)
    trainer = CalibrationTrainer(model=model, args=args)
    epochs, steps_an_epoch = int(args.num_train_epochs), 7
    trainer.create_optimizer_and_scheduler(epochs * steps_an_epoch)
    optimizer = getattr(trainer.optimizer, "optimizer", trainer.optimizer)
    assert type(optimizer) is torch.optim.SGD
    for group in optimizer.param_groups:
        settings = {key: group[key] for key in ("momentum", "dampening", "nesterov", "maximize")}
        assert settings == {"momentum": 0.9, "dampening": 0, "nesterov": False, "maximize": False}
        assert group["weight_decay"] == 5e-4 or not group["params"]
    assert sum(len(group["params"]) for group in optimizer.param_groups) == len(list(model.parameters()))
    rates = []
    for _ in range(epochs * steps_an_epoch):
        rates.append(trainer.optimizer.param_groups[0]["lr"])
        trainer.optimizer.step()
        trainer.lr_scheduler.step()
    first, second = (40, 60) if tiny else (150, 250)
    expected = np.repeat([0.1, 0.01, 0.001], np.array([first, second - first, epochs - second]) * steps_an_epoch)
    assert len(rates) == (700 if tiny else 2450) and rates == pytest.approx(expected.tolist())


@pytest.mark.parametrize("name", [*CONFIGS, "cifar10_small"])
def test_every_key_is_a_flag_and_is_given_once(name):
    """YAML takes the last of two equal keys in silence."""
    text = (ROOT / "configs" / f"{name}.yaml").read_text()
    keys = re.findall(r"^(\w+):", text, flags=re.MULTILINE)
    assert len(set(keys)) == len(keys) > 15
    objects = parsed(name)
    values = yaml.safe_load(text)
    for key in keys:
        (owner,) = [one for one in objects if key in {field.name for field in dataclasses.fields(one)}]
        found = getattr(owner, key)
        several = isinstance(found, list) and not isinstance(values[key], list)  # of a flag that takes several
        assert found == ([values[key]] if several else values[key]), key


def readme():
    return (ROOT / "configs" / "README.md").read_text().split("## Texts")[0]


def flags_of_losses():
    for row in re.findall(r"^\| `.*$", readme(), flags=re.MULTILINE):
        losses, cifar, tiny = (cell.strip() for cell in row.strip("|").split("|"))
        tiny = cifar if tiny == "the same" else tiny
        for loss in re.findall("`(.*?)`", losses):
            for config, cell in (("cifar10", cifar), ("tiny_imagenet", tiny)):
                yield config, loss, shlex.split((re.findall("`(.*?)`", cell) or [""])[0])


def test_flags_of_every_loss_in_the_readme_make_that_loss():
    found = {}
    for config, loss, flags in flags_of_losses():
        _, _, args = parsed(config, "--loss", loss, *flags)
        found[config, loss] = create_loss(args.loss, **args.loss_parameters()), args
    assert len(found) == 18
    for config, milestones in (("cifar10", (100, 250)), ("tiny_imagenet", (30, 70))):
        assert tuple(found[config, "flsc-531"][0].milestones) == milestones and found[config, "flsc-531"][0].in_epochs
        assert found[config, "mmce"][0].lam == 2 and found[config, "mmce"][0].normalization == "released"
        assert {loss for (name, loss), (made, _) in found.items() if made.reduction == "mean"} == {"brier"}
    assert found["tiny_imagenet", "brier"][1].learning_rate == 0.035


def test_commands_of_the_readme_parse():
    (block,) = re.findall(r"```bash\n(.*?)```", readme(), flags=re.DOTALL)
    for command in block.splitlines():
        words = shlex.split(command)
        assert words[:4] == ["accelerate", "launch", "scripts/run_image.py", "--config"]
        parsed(re.fullmatch(r"configs/(\w+)\.yaml", words[4])[1], *words[5:])


def images(count, size, classes):
    pixels = np.random.default_rng(0).integers(0, 256, (count, size, size, 3)).astype(np.uint8)
    return [PILImage.fromarray(image) for image in pixels], [index % classes for index in range(count)]


@pytest.mark.filterwarnings("ignore:The (best )?temperature")
@pytest.mark.parametrize("name", CONFIGS)
def test_a_recipe_runs_at_a_tiny_scale(name, tmp_path, monkeypatch, capsys):
    column = {"cifar10": "label", "cifar100": "fine_label", "tiny_imagenet": "label"}[name]
    features = Features({"img": Image(), column: ClassLabel(names=["a", "b", "c"])})
    splits = {}
    for split, count in (("train", 60), ("valid" if name == "tiny_imagenet" else "test", 12)):
        pictures, labels = images(count, 16, 3)
        splits[split] = Dataset.from_dict({"img": pictures, column: labels}, features=features)
    DatasetDict(splits).save_to_disk(str(tmp_path / "data"))
    flags = ["--dataset_name", str(tmp_path / "data"), "--model_name_or_path", "cifar_resnet8", "--max_steps", "2"]
    flags += ["--per_device_train_batch_size", "16", "--output_dir", str(tmp_path / "out"), "--use_cpu", "true"]
    flags += ["--image_size", "16", "--disable_tqdm", "true"]
    flags += [] if name == "tiny_imagenet" else ["--validation_size", "12"]
    monkeypatch.setattr(sys, "argv", [SCRIPT, "--config", str(ROOT / "configs" / f"{name}.yaml"), *flags])
    runpy.run_path(SCRIPT, run_name="__main__")
    assert "Saved to" in capsys.readouterr().out
    results = json.loads((tmp_path / "out" / "all_results.json").read_text())
    assert results["loss"] == "flsd-53" and np.isfinite(results["train_loss"])
    config = json.loads((tmp_path / "out" / "config.json").read_text())
    mean = [0.485, 0.456, 0.406] if name == "tiny_imagenet" else [0.4914, 0.4822, 0.4465]
    assert config["pretrained_cfg"]["mean"] == mean
    assert config["calibration"]["n_samples"] == (6 if name == "tiny_imagenet" else 12)


def test_sum_and_mean_clip_the_first_gradient_as_the_recipe_says(tmp_path):
    """
    One step of the recipe, and of it with the one key changed. With the sum the clip binds and leaves a gradient of
    norm 2; with the mean it is the plain mean gradient. (lr, momentum and weight decay are taken out of the step.)
    """
    torch.manual_seed(0)
    model, _ = create_image_classifier("cifar_resnet8", [str(label) for label in range(10)], from_scratch=True)
    start = {name: value.clone() for name, value in model.state_dict().items()}
    pixels, labels = torch.randn(128, 3, 32, 32), torch.arange(128) % 10
    data = [{"pixel_values": image, "labels": int(label)} for image, label in zip(pixels, labels, strict=True)]

    model.train()
    log_p = torch.log_softmax(model(pixel_values=pixels).logits, dim=1)[torch.arange(128), labels]
    p = log_p.exp().detach()
    gamma = torch.where(p < 0.2, 5.0, 3.0)
    total = -((1 - log_p.exp()) ** gamma * log_p).sum()
    expected = torch.autograd.grad(total, list(model.parameters()))
    norm = torch.cat([gradient.flatten() for gradient in expected]).norm()

    for reduction in ("sum", "mean"):
        model.load_state_dict(start)
        flags = ["--loss_reduction", reduction, "--max_steps", "1", "--output_dir", str(tmp_path)]
        flags += ["--save_strategy", "no", "--eval_strategy", "no", "--disable_tqdm", "true"]
        _, _, args = parsed("cifar10", *flags)
        CalibrationTrainer(model=model, args=args, train_dataset=data).train()
        found = [
            (start[name] - parameter.detach()) / args.learning_rate - args.weight_decay * start[name]
            for name, parameter in model.named_parameters()
        ]
        found_norm = torch.cat([gradient.flatten() for gradient in found]).norm()
        if reduction == "sum":
            assert norm > 50 and found_norm.item() == pytest.approx(2, rel=1e-4)
            scale = 2 / norm
        else:
            assert norm / 128 < 2 and found_norm.item() == pytest.approx(norm.item() / 128, rel=1e-3)
            scale = 1 / 128
        for gradient, wanted in zip(found, expected, strict=True):
            torch.testing.assert_close(gradient, wanted * scale, rtol=1e-3, atol=2e-5)


# ---- The two arguments that the recipes need ------------------------------------------------------------------------


def little_run(folder, **kwargs):
    model, _ = create_image_classifier("cifar_resnet8", ["a", "b"], from_scratch=True)
    data = [{"pixel_values": torch.randn(3, 8, 8), "labels": index % 2} for index in range(6)]
    settings = {"optim": "sgd", "learning_rate": 0.1, "per_device_train_batch_size": 3, "logging_steps": 1,
                "save_strategy": "no", "report_to": "none", "use_cpu": True, "disable_tqdm": True,
                "lr_scheduler_type": "constant", "weight_decay": 0.1}  # fmt: skip
    args = CalibrationTrainingArguments(str(folder), **{**settings, **kwargs})
    return CalibrationTrainer(model=model, args=args, train_dataset=data)


@pytest.mark.parametrize(
    ("length", "drops"), [({"num_train_epochs": 6}, (4, 8)), ({"num_train_epochs": 6, "max_steps": 6}, (2, 4))]
)
def test_the_learning_rate_drops_after_the_milestones(tmp_path, length, drops):
    """Two steps an epoch: epochs 0 and 1 at 0.1, 2 and 3 at 0.01, then 0.001; under max_steps in proportion."""
    trainer = little_run(tmp_path, lr_milestones=[2, 4], **length)
    trainer.train()
    rates = [entry["learning_rate"] for entry in trainer.state.log_history if "learning_rate" in entry]
    # The rate that is logged after a step is the one it was made with.
    expected = [0.1 * 0.1 ** sum(step >= drop for drop in drops) for step in range(len(rates))]
    assert len(rates) == length.get("max_steps", 12)
    assert rates == pytest.approx(expected) or rates == pytest.approx(expected[1:] + expected[-1:])


@pytest.mark.parametrize(
    ("kwargs", "message"),
    [
        ({"lr_milestones": [2, 2]}, "must increase and lie between 0 and num_train_epochs=3"),
        ({"lr_milestones": [2, 4]}, "num_train_epochs=3"),
        ({"lr_milestones": [1], "lr_scheduler_type": "linear"}, "use lr_scheduler_type='constant', not 'linear'"),
    ],
)
def test_milestones_that_cannot_be_are_refused(tmp_path, kwargs, message):
    with pytest.raises(ValueError, match=message):
        little_run(tmp_path, **kwargs)


@pytest.mark.parametrize("decay_all", [True, False])
def test_weight_decay_of_biases_and_normalisations_is_a_choice(tmp_path, decay_all):
    trainer = little_run(tmp_path, decay_all_parameters=decay_all)
    groups = trainer.create_optimizer().param_groups
    decayed = sum(parameter.numel() for group in groups if group["weight_decay"] for parameter in group["params"])
    biases = sum(value.numel() for name, value in trainer.model.named_parameters() if name.endswith("bias"))
    everything = sum(parameter.numel() for parameter in trainer.model.parameters())
    assert biases > 0 and decayed == (everything if decay_all else everything - biases)
