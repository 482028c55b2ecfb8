# Copyright 2026 The hf_focal authors. Licensed under the Apache License, Version 2.0.
"""What `BaseTrainer` is there for: each test fails once transformers does it by itself, and the repair can go."""

from functools import partial

import pytest
import torch
from small_models import arguments, build, samples
from transformers import Trainer, TrainingArguments
from transformers.trainer_utils import SchedulerType

from hf_focal import CalibrationTrainer, CalibrationTrainingArguments


STOCK_AND_OURS = [(Trainer, TrainingArguments), (CalibrationTrainer, CalibrationTrainingArguments)]
NO_LONGER = "transformers mends this now: take the repair out of hf_focal/training/base_trainer.py"


def trainers(folder, kind="vit", **options):
    """The stock one and ours, on the same model and data."""
    for trainer_class, arguments_class in STOCK_AND_OURS:
        args = arguments(folder, arguments_class, report_to="none", **options)
        yield trainer_class(
            model=build(kind), args=args, train_dataset=samples(kind, 16), eval_dataset=samples(kind, 11)
        )


def test_get_eval_dataloader(tmp_path):
    stock, ours = trainers(tmp_path, dataloader_drop_last=True, per_device_eval_batch_size=4)
    for loader in ("get_eval_dataloader", "get_test_dataloader"):
        counts = [
            sum(len(batch["labels"]) for batch in getattr(trainer, loader)(samples("vit", 11)))
            for trainer in (stock, ours)
        ]
        assert counts[0] == 8, NO_LONGER
        assert counts[1] == 11
    assert ours.args.dataloader_drop_last and len(ours.get_train_dataloader()) == 2


def test_create_scheduler():
    assert not [kind for kind in SchedulerType if "step" in kind.value], NO_LONGER


def test_get_decay_parameter_names(tmp_path):
    stock, ours = trainers(tmp_path)
    assert "classifier.bias" not in stock.get_decay_parameter_names(stock.model), NO_LONGER
    ours.args.decay_all_parameters = True
    assert set(ours.get_decay_parameter_names(ours.model)) == {name for name, _ in ours.model.named_parameters()}


@pytest.mark.filterwarnings("ignore:.*")
def test_load_from_checkpoint(tmp_path):
    """A ViT is saved under the names of an earlier version."""
    differ = []
    for trainer in trainers(tmp_path):
        folder = tmp_path / type(trainer).__name__
        trainer.save_model(str(folder))
        kept = {name: value.clone() for name, value in trainer.model.state_dict().items()}
        for value in trainer.model.state_dict().values():
            value.zero_()
        trainer._load_from_checkpoint(str(folder))
        differ.append(any(not torch.equal(value, kept[name]) for name, value in trainer.model.state_dict().items()))
    assert differ[0], NO_LONGER
    assert not differ[1]


def test_save(tmp_path):
    found = []
    for trainer in trainers(tmp_path):
        folder = tmp_path / type(trainer).__name__
        trainer.save_model(str(folder))
        found.append((folder / "training_args.bin").exists())
    assert found[0], NO_LONGER
    assert not found[1]


def test_save_model(tmp_path, monkeypatch):
    """Under `push_to_hub` a model is pushed by saving it."""
    pushed = []

    def push(whose, *args, **kwargs):
        pushed.append(whose)

    for trainer in trainers(tmp_path):
        monkeypatch.setattr(trainer, "push_to_hub", partial(push, type(trainer).__name__))
        trainer.args.push_to_hub = True
        trainer.save_model()
        if isinstance(trainer, CalibrationTrainer):
            assert not trainer.ready_to_push()
            trainer.model.config.calibration = {"temperature": 1.5, "folded": False}
            trainer.save_model()
    assert pushed[0] == "Trainer", NO_LONGER
    assert pushed[1:] == ["CalibrationTrainer"]
