# Copyright 2026 The hf_focal authors. Licensed under the Apache License, Version 2.0.
"""What a card tells of a model and its training, against the model and the arguments themselves."""

import platform
import re
from importlib.metadata import version

import numpy as np
import pytest
import torch
from datasets import Dataset
from transformers import BertConfig, BertForSequenceClassification, Trainer, TrainingArguments

from hf_focal import CalibrationTrainer, CalibrationTrainingArguments
from hf_focal.training.facts import model_facts, training_facts
from hf_focal.training.finish import finish_run


SIZES = {"hidden_size": 8, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 8}


def bert():
    torch.manual_seed(0)
    return BertForSequenceClassification(BertConfig(vocab_size=40, num_labels=3, **SIZES))


def data(count, seed=0):
    generator = np.random.default_rng(seed)
    labels = generator.integers(0, 3, count)
    ids = generator.integers(5, 40, (count, 6))
    ids[:, 0] = labels
    return Dataset.from_dict({"input_ids": ids.tolist(), "labels": labels.tolist()})


def facts(folder):
    text = (folder / "README.md").read_text("utf-8")
    section = text.partition("## Training\n")[2].partition("## Limits")[0]
    return dict(re.findall(r"^- \*\*(.+?)\*\*: (.+)$", section, flags=re.MULTILINE)), section


def trainer_in(folder, model=None, **kwargs):
    plain = {
        "report_to": "none",
        "use_cpu": True,
        "disable_tqdm": True,
        "save_strategy": "no",
        "logging_strategy": "no",
    }
    options = {name: kwargs.pop(name) for name in ("optimizers",) if name in kwargs}
    args = CalibrationTrainingArguments(str(folder), **plain, **kwargs)
    sets = {"train_dataset": data(96), "eval_dataset": data(60, 1)}
    return CalibrationTrainer(model=model or bert(), args=args, **sets, **options)


@pytest.mark.filterwarnings("ignore:The temperature is fitted on 60 samples", "ignore:The best temperature")
def test_the_card_tells_what_the_run_did(tmp_path):
    rates = {"learning_rate": 0.003, "lr_scheduler_type": "cosine", "warmup_steps": 2, "weight_decay": 0.02}
    batches = {"per_device_train_batch_size": 8, "gradient_accumulation_steps": 2, "num_train_epochs": 2}
    trainer = trainer_in(tmp_path, loss="focal", gamma=2.5, seed=7, **rates, **batches)
    trainer.train()
    finish_run(trainer, data(60, 1), data(80, 2), dataset_name="user/data", task="text-classification", split="dev")
    told, section = facts(tmp_path)
    count = sum(one.numel() for one in bert().parameters())
    assert told["architecture"] == f"BertForSequenceClassification (bert), {count:,} parameters, 3 classes"
    assert told["training"] == "2 epochs, 12 steps of 16 samples"
    words = "AdamW, learning rate 0.003, cosine after 2 steps of warm-up, weight decay 0.02"
    assert told["optimizer"] == words and told["seed"] == "7" and told["precision"] == "float32"
    assert told["data"] == "96 samples to train, 60 samples of dev to calibrate, 80 samples of test to measure"
    for name in ("transformers", "torch", "datasets"):
        assert f"{name} {version(name)}" in told["versions"]
    assert told["versions"].endswith(f"Python {platform.python_version()}") and "timm" not in told["versions"]
    assert "Trained with the loss `focal` (gamma 2.5)." in section


def test_an_optimizer_of_ones_own_is_told_as_it_is(tmp_path):
    model = bert()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.5, momentum=0.9)
    schedule = torch.optim.lr_scheduler.StepLR(optimizer, 2)
    trainer = trainer_in(tmp_path, model, optimizers=(optimizer, schedule), learning_rate=0.1, max_steps=4)
    trainer.train()
    assert training_facts(trainer)["optimizer"] == "SGD, learning rate 0.5, by StepLR, momentum 0.9"


@pytest.mark.filterwarnings("ignore:The best temperature")
def test_of_a_model_that_was_trained_elsewhere_nothing_is_made_up(tmp_path):
    model = bert()
    args = TrainingArguments(str(tmp_path / "x"), report_to="none", use_cpu=True, max_steps=3, save_strategy="no")
    Trainer(model=model, args=args, train_dataset=data(96)).train()
    trainer = trainer_in(tmp_path / "out", model, learning_rate=0.123)
    finish_run(trainer, data(300, 1), data(80, 2), dataset_name="user/data", task="text-classification")
    told, section = facts(tmp_path / "out")
    assert told["training"] == "elsewhere: nothing is known of it here"
    assert {"architecture", "training", "data", "versions"} == set(told)
    assert "0.123" not in section and "96" not in section and "loss" not in section


def test_what_is_calibrated_anew_keeps_the_loss_that_its_record_tells(tmp_path):
    trainer = trainer_in(tmp_path / "a", max_steps=3, loss="brier")
    trainer.train()
    trainer.calibrate(data(300, 1))
    again = trainer_in(tmp_path / "b", trainer.model)
    again.calibrate(data(300, 1))
    again.create_model_card()
    told, section = facts(tmp_path / "b")
    assert told["training"] == "elsewhere: no more than the loss is known of it here"
    assert "Trained with the loss `brier`" in section


def test_calibrating_warns_of_logits_that_a_server_cannot_take(tmp_path, caplog):
    for factor, warned in ((1.0, False), (1e5, True)):
        model = bert()
        with torch.no_grad():
            model.classifier.weight *= factor
        caplog.clear()
        trainer_in(tmp_path, model).calibrate(data(300, 1), method="none")
        assert ("spread by more than 88" in caplog.text) is warned


def test_an_adapter_is_told_with_its_rank_and_what_was_trained(tmp_path):
    from peft import LoraConfig, get_peft_model

    model = get_peft_model(bert(), LoraConfig(task_type="SEQ_CLS", r=2))
    trained = sum(one.numel() for one in model.parameters() if one.requires_grad)
    trainer = trainer_in(tmp_path, model, max_steps=3)
    trainer.train()
    trainer.model = trainer.model_wrapped = model.merge_and_unload()  # which the card is made after
    told = {**model_facts(trainer), **trainer._trained}
    assert told["adapter"] == f"LORA of rank 2, {trained:,} parameters trained with the head"
    assert told["architecture"].startswith("BertForSequenceClassification (bert)")
