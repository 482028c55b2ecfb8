# Copyright 2026 The hf_focal authors. Licensed under the Apache License, Version 2.0.
"""How a run ends in its folder: checkpoints, a run that replaces another, and what an error in the middle leaves."""

import json
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from small_models import arguments, build, data, flat
from transformers import TrainerCallback

from hf_focal import CalibrationTrainer, KeepBestCallback, finish_run, prepare_output_dir


RUN = {"num_train_epochs": 3, "save_strategy": "epoch", "eval_strategy": "epoch", "report_to": "none"}
FACTS = {"dataset_name": "noise", "task": "image-classification"}


def made(folder, resume=None, overwrite=False, **kwargs):
    """A trainer of 2 steps an epoch, and the checkpoint to go on from."""
    args = arguments(folder, **{**RUN, "resume_from_checkpoint": resume, **kwargs})
    checkpoint = prepare_output_dir(args, overwrite)
    trainer = CalibrationTrainer(
        model=build("vit"), args=args, train_dataset=data("vit", 16), eval_dataset=data("vit", 30, 1)
    )
    return trainer, checkpoint


def finish(trainer):
    return finish_run(trainer, data("vit", 240, 1), data("vit", 30, 2), **FACTS)


def names(folder):
    return {path.name for path in Path(folder).iterdir()}


LEFT = {"config.json", "model.safetensors", "README.md", "reliability.png", "all_results.json"}
LEFT |= {"predictions.safetensors"}


def left(folder):
    """What a finished run leaves: what its head was, too, where a temperature changed it."""
    changed = json.loads((Path(folder) / "config.json").read_text())["calibration"]["temperature"] != 1
    return LEFT | ({".head_before_calibration.safetensors"} if changed else set())


def interrupt(*args):
    raise KeyboardInterrupt


class Die(TrainerCallback):
    def __init__(self, step):
        self.step = step

    def on_step_end(self, args, state, control, **kwargs):
        if state.global_step == self.step:
            raise KeyboardInterrupt


def test_a_checkpoint_is_there_whole_or_not_at_all(tmp_path, monkeypatch):
    trainer, _ = made(tmp_path / "whole")
    trainer.train()
    expected = flat(trainer.model)

    save, saved = torch.save, []

    def fail(what, path, *args, **kwargs):
        if Path(path).name == "scheduler.pt":
            saved.append(path)
            if len(saved) == 2:
                raise KeyboardInterrupt
        save(what, path, *args, **kwargs)

    monkeypatch.setattr(torch, "save", fail)
    for name in ("checkpoint-best", "checkpoint-1.bak"):
        (tmp_path / "run" / name).mkdir(parents=True)
    trainer, _ = made(tmp_path / "run", save_total_limit=1)
    with pytest.raises(KeyboardInterrupt):
        trainer.train()
    # Stock resuming, which goes by numbers alone, finds a whole one, too.
    assert {name for name in names(tmp_path / "run") if name.startswith("checkpoint")} == {
        "checkpoint-2", "checkpoint-best", "checkpoint-1.bak"
    }  # fmt: skip
    trainer, checkpoint = made(tmp_path / "run", resume="last", save_total_limit=1)
    assert Path(checkpoint).name == "checkpoint-2"
    trainer.train(resume_from_checkpoint=True)
    assert torch.equal(flat(trainer.model), expected)
    assert names(tmp_path / "run") - {".lock"} == {"checkpoint-6", "checkpoint-best", "checkpoint-1.bak"}


def test_the_best_checkpoint_is_kept_and_found_where_the_run_was_moved_to(tmp_path):
    class Scored(CalibrationTrainer):
        def evaluate(self, *args, **kwargs):
            metrics = {"eval_ece": abs(self.state.global_step - 4) / 10}
            self.callback_handler.on_evaluate(self.args, self.state, self.control, metrics)
            return metrics

    best = {"metric_for_best_model": "ece", "load_best_model_at_end": True, "save_total_limit": 1}
    args = arguments(tmp_path / "run", **{**RUN, **best})
    rows = {"train_dataset": data("vit", 16), "eval_dataset": data("vit", 30, 1)}
    trainer = Scored(model=build("vit"), args=args, **rows)
    trainer.train()
    assert {"checkpoint-4", "checkpoint-6"} == names(tmp_path / "run")
    assert trainer.state.best_model_checkpoint == str(tmp_path / "run" / "checkpoint-4")
    state = json.loads((tmp_path / "run" / "checkpoint-6" / "trainer_state.json").read_text())
    assert state["best_model_checkpoint"] == trainer.state.best_model_checkpoint
    chosen = flat(trainer.model)
    shutil.move(tmp_path / "run", tmp_path / "moved")  # as a run is that replaces another
    trainer = Scored(model=build("vit", seed=3), args=arguments(tmp_path / "moved", **{**RUN, **best}), **rows)
    trainer.train(resume_from_checkpoint=True)
    assert torch.equal(flat(trainer.model), chosen)


def test_a_run_replaces_another_once_it_is_complete(tmp_path, monkeypatch):
    folder = tmp_path / "run"
    trainer, _ = made(folder, num_train_epochs=4, save_total_limit=1)
    trainer.add_callback(KeepBestCallback(trainer, ["ece"]))
    trainer.train()
    finish(trainer)
    assert names(folder) == {*left(folder), "checkpoint-8", "best-ece"}
    (folder / "tokenizer.json").write_text("of the old run")
    before = {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    options = {"overwrite": True, "seed": 5, "report_to": "tensorboard"}

    def untouched():
        return all(path.read_bytes() == content for path, content in before.items())

    # It dies early, is started anew and dies late, and is resumed.
    trainer, _ = made(folder, **options, save_strategy="steps", save_steps=1)
    trainer.add_callback(Die(2))
    with pytest.raises(KeyboardInterrupt):
        trainer.train()
    assert untouched() and "checkpoint-1" in names(folder / ".unfinished")
    trainer, checkpoint = made(folder, **options)
    assert checkpoint is None and untouched() and "checkpoint-1" in names(folder / ".unfinished")
    trainer.add_callback(Die(5))
    with pytest.raises(KeyboardInterrupt):
        trainer.train()
    assert untouched() and "checkpoint-1" not in names(folder / ".unfinished")
    trainer, checkpoint = made(folder, resume="last", seed=5, report_to="tensorboard")
    assert Path(checkpoint).parts[-2:] == (".unfinished", "checkpoint-4")
    trainer.train(resume_from_checkpoint=checkpoint)
    trained = flat(trainer.model)
    whole, _ = made(tmp_path / "whole", seed=5)
    whole.train()
    assert torch.equal(flat(whole.model), trained)
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(CalibrationTrainer, "write_card", interrupt)
        finish(trainer)
    assert untouched()
    finish(trainer)
    assert names(folder) == {*left(folder), "checkpoint-2", "checkpoint-4", "checkpoint-6", "runs"}
    assert trainer.args.output_dir == str(folder) and trainer.card_id == str(folder)
    assert ".unfinished" not in (folder / "README.md").read_text()
    assert json.loads((folder / "all_results.json").read_text())["model_id"] == str(folder)
    assert len(list((folder / "runs").rglob("events.*"))) == 3  # of every start


def test_a_model_that_is_only_calibrated_replaces_a_run_without_what_another_left(tmp_path):
    (tmp_path / "all_results.json").write_text("{}")
    trainer, _ = made(tmp_path, overwrite=True)
    trainer.add_callback(Die(5))
    with pytest.raises(KeyboardInterrupt):
        trainer.train()
    with pytest.raises(ValueError, match="is no such checkpoint"):
        trainer.train(resume_from_checkpoint=str(tmp_path / "checkpoint-4"))
    trainer, _ = made(tmp_path, overwrite=True)
    finish(trainer)
    assert names(tmp_path) == left(tmp_path)


def test_saving_a_model_replaces_a_run_too(tmp_path):
    (tmp_path / "config.json").write_text("mine")
    trainer, _ = made(tmp_path, overwrite=True, save_strategy="no", eval_strategy="no")
    trainer.train()
    assert (tmp_path / "config.json").read_text() == "mine"
    trainer.save_model()
    assert names(tmp_path) == {"config.json", "model.safetensors"}
    assert torch.equal(flat(type(trainer.model).from_pretrained(tmp_path)), flat(trainer.model))


@pytest.mark.parametrize("output_dir", [None, "elsewhere"])
def test_a_model_that_is_not_written_to_its_end_replaces_none(tmp_path, monkeypatch, output_dir):
    trainer, _ = made(tmp_path / "run")
    place = tmp_path / (output_dir or "run")
    trainer.save_model(output_dir and str(place))
    (place / "tokenizer.json").write_text("saved by hand")
    before = {path: path.read_bytes() for path in place.iterdir() if path.is_file()}
    torch.nn.init.zeros_(trainer.model.classifier.weight)
    trainer.model.config.calibration = {"temperature": 2.0, "folded": True}
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(torch, "save", interrupt)  # of the arguments, after the weights
        trainer.save_model(output_dir and str(place))
    assert {path: path.read_bytes() for path in place.iterdir() if path.is_file()} == before
    trainer.save_model(output_dir and str(place))
    assert not load_file(place / "model.safetensors")["classifier.weight"].any()
    assert names(place) - {".lock"} == {"config.json", "model.safetensors", "tokenizer.json"}
    assert (place / "tokenizer.json").read_text() == "saved by hand"


def test_what_a_best_model_was_being_written_to_is_removed_where_nothing_can_be_made_of_it(tmp_path):
    (tmp_path / "best-ece.tmp").mkdir()
    trainer, _ = made(tmp_path / "run", save_strategy="no")
    shutil.move(tmp_path / "best-ece.tmp", tmp_path / "run")
    trainer.add_callback(KeepBestCallback(trainer, ["nll"]))
    trainer.add_callback(KeepBestCallback(trainer, ["ece"]))
    trainer.train()
    assert names(tmp_path / "run") - {".lock"} == {"best-ece", "best-nll"}


def test_a_run_in_the_current_folder_is_called_by_its_name(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "README.md").write_text("my notes")
    with pytest.raises(ValueError, match=r"^. holds files that this run would write over \(README.md\)"):
        made(".")
    trainer, _ = made(".", overwrite=True, num_train_epochs=1)
    trainer.train()
    finish(trainer)
    assert names(tmp_path) == {*left(tmp_path), "checkpoint-2"}
    assert f"# {tmp_path.name}\n" in (tmp_path / "README.md").read_text()
