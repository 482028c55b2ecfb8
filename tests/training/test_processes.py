# Copyright 2026 The hf_focal authors. Licensed under the Apache License, Version 2.0.
"""Several processes against one: weights, measurements, files; FSDP2; configurations for `accelerate launch`."""

import json
import os
import warnings

import numpy as np
import process_runs
import pytest
import torch
import yaml
from accelerate.commands import launch as launcher
from accelerate.utils import launch as environments
from conftest import ROOT
from launching import launch
from safetensors.torch import load_file
from small_models import data

import hf_focal
from hf_focal import MMCELoss, mmce_loss
from hf_focal.losses import processes as together


SCRIPT = str(ROOT / "tests" / "process_runs.py")
COUPLED = ("mmce", "mmce-unweighted")  # pairs samples of one process alone


# ---- MMCE over processes, by processes that are made up -------------------------------------------------------------


def parts(sizes, seed=0):
    generator = torch.Generator().manual_seed(seed)
    logits = 2 * torch.randn(sum(sizes), 4, generator=generator, dtype=torch.float64)
    labels = torch.randint(0, 4, (sum(sizes),), generator=generator)
    labels[::2] = logits[::2].argmax(1)
    labels[3] = -100
    return logits, labels, list(zip(logits.split(sizes), labels.split(sizes), strict=True))


@pytest.fixture
def as_process(monkeypatch):
    """Call a loss as each of several processes in turn: what the others send is taken from a first round of calls."""

    def call(function, count):
        sent = {}

        def answers(rank, asked):
            def all_gather(into, tensor):
                sent[rank, len(asked)] = tensor
                for other, place in enumerate(into):
                    place.zero_()
                    if (other, len(asked)) in sent and sent[other, len(asked)].shape == place.shape:
                        place.copy_(sent[other, len(asked)])
                asked.append(tensor)

            return all_gather

        for _ in range(3):  # sizes, then values, are known from the round before
            found = []
            for rank in range(count):
                monkeypatch.setattr(together.dist, "is_initialized", lambda: True)
                monkeypatch.setattr(together.dist, "get_world_size", lambda: count)
                monkeypatch.setattr(together.dist, "get_rank", lambda rank=rank: rank)
                monkeypatch.setattr(together.dist, "all_gather", answers(rank, []))
                found.append(function(rank))
        return found

    return call


@pytest.mark.parametrize("normalization", ["definition", "released"])
@pytest.mark.parametrize("weighted", [True, False])
@pytest.mark.parametrize("sizes", [(6, 6), (9, 3), (2, 5, 4)])
def test_the_processes_have_the_slopes_of_one_once_theirs_are_added_up(as_process, sizes, weighted, normalization):
    logits, labels, cut = parts(sizes)
    whole = logits.clone().requires_grad_()
    loss = MMCELoss(gather=True, weighted=weighted, normalization=normalization)
    total = loss(whole, labels, num_items_in_batch=torch.tensor(len(labels) - 1))
    (expected,) = torch.autograd.grad(total, whole)

    def one(rank):
        own = cut[rank][0].clone().requires_grad_()
        value = loss(own, cut[rank][1], num_items_in_batch=torch.tensor(len(labels) - 1))
        return value.detach(), torch.autograd.grad(value, own)[0]

    values, slopes = zip(*as_process(one, len(sizes)), strict=True)
    torch.testing.assert_close(sum(values), total.detach(), rtol=1e-12, atol=0)
    torch.testing.assert_close(torch.cat(slopes), expected, rtol=0, atol=1e-13)


def test_plain_means_are_averaged_as_distributed_data_parallel_does(as_process):
    logits, labels, cut = parts((7, 7))
    labels[3] = cut[0][1][3] = 0
    whole = logits.clone().requires_grad_()
    (expected,) = torch.autograd.grad(mmce_loss(whole, labels), whole)

    def one(rank):
        own = cut[rank][0].clone().requires_grad_()
        return torch.autograd.grad(mmce_loss(own, cut[rank][1], gather=True), own)[0]

    torch.testing.assert_close(torch.cat(as_process(one, 2)) / 2, expected, rtol=0, atol=1e-13)


def test_alone_and_in_evaluation_gathering_changes_nothing(as_process):
    logits, labels, _ = parts((6, 6))
    assert torch.equal(MMCELoss(gather=True)(logits, labels), MMCELoss()(logits, labels))
    logits.requires_grad_()
    assert torch.equal(MMCELoss(gather=True)(logits, labels), MMCELoss()(logits, labels))

    def evaluated(rank):
        with torch.no_grad():
            return MMCELoss(gather=True)(logits, labels)

    assert all(torch.equal(value, MMCELoss()(logits, labels)) for value in as_process(evaluated, 2))
    with pytest.raises(ValueError, match="gather must be true or false, got 'yes'"):
        MMCELoss(gather="yes")
    args = hf_focal.CalibrationTrainingArguments("out", loss="mmce", loss_kwargs='{"gather": true}')
    assert hf_focal.create_loss("mmce", **args.loss_parameters()).hyperparameters()["gather"] is True
    assert "gather" not in MMCELoss().hyperparameters()


# ---- Two processes against one --------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def two(tmp_path_factory):
    """One process here and two by `accelerate launch`: the folders of both."""
    folders = [tmp_path_factory.mktemp(name) for name in ("one", "two")]
    with warnings.catch_warnings():
        process_runs.run(folders[0], world=1)
    launch(SCRIPT, str(folders[1]), processes=2)
    return folders


def facts(folder, rank=0, name="facts"):
    return json.loads((folder / f"{name}-{rank}.json").read_text())


@pytest.mark.slow
@pytest.mark.parametrize("name", process_runs.RUNS)
def test_two_processes_train_the_weights_of_one(two, name):
    one, other = (load_file(folder / "weights.safetensors")[name] for folder in two)
    assert one.dtype == torch.float64 and facts(two[1])["world"] == 2
    off = (one - other).abs().max().item()
    assert off > 1e-6 if name in COUPLED else off < 1e-10


@pytest.mark.slow
@pytest.mark.parametrize("count", process_runs.COUNTS)
def test_two_processes_measure_predict_and_calibrate_as_one(two, count):
    one, other = (load_file(folder / "predictions.safetensors")[str(count)] for folder in two)
    assert one.shape == (count, 5) and torch.allclose(one, other, rtol=0, atol=1e-12)
    measured = [facts(folder)["measured"][str(count)] for folder in two]
    assert measured[0].keys() == measured[1].keys() and "eval_loss" in measured[0]
    assert measured[1] == pytest.approx(measured[0], rel=1e-9, abs=1e-12)
    assert facts(two[1], rank=1)["measured"][str(count)] == measured[1]


@pytest.mark.slow
def test_the_main_process_alone_writes_and_pushes(two):
    main, other = (facts(two[1], rank) for rank in (0, 1))
    assert len(main["pushed"]) == 1 and any("config.json" in path for path in main["written"])
    assert other["pushed"] == [] and other["written"] == []


# ---- FSDP2 ----------------------------------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["bert", "timm"])
def test_a_model_in_parts_is_calibrated_folded_and_saved_whole(tmp_path, monkeypatch, kind):
    config = str(ROOT / "configs" / "accelerate" / "fsdp2.yaml")
    launch("--config_file", config, SCRIPT, str(tmp_path), kind, processes=2, sharded=True)
    found = [facts(tmp_path, rank, "sharded") for rank in (0, 1)]
    assert found[0] == found[1] and found[0]["sharded"] == "DTensor" and found[0]["record"]["folded"]
    assert found[0]["record"]["head"]["modules"]
    assert max(found[0][key] for key in ("temperature", "vector")) < 1e-5 and found[0]["undone"] < 1e-6
    after = load_file(tmp_path / "sharded.safetensors")["after"]
    samples = data(kind, 203, seed=1)
    (name,) = {*samples[0]} - {"labels"}
    batch = {name: torch.stack([row[name] for row in samples])}
    with torch.no_grad():
        loaded = hf_focal.from_pretrained(tmp_path / "out")
        torch.testing.assert_close(loaded(**batch).logits, after, rtol=0, atol=1e-5)
        expected = hf_focal.from_pretrained(tmp_path / "unfolded")(**batch).logits
        hf_focal.fold_checkpoint(tmp_path / "unfolded")
        folded = hf_focal.from_pretrained(tmp_path / "unfolded")(**batch).logits
    torch.testing.assert_close(folded, expected, rtol=0, atol=1e-5)
    torch.testing.assert_close(folded, after, rtol=0, atol=1e-5)


# ---- DeepSpeed ------------------------------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["bert", "timm"])
def test_zero_3_trains_measures_and_calibrates_as_one_process(tmp_path, monkeypatch, kind):
    """On two CPU processes; the first time DeepSpeed compiles what these send each other by."""
    pytest.importorskip("deepspeed", reason="DeepSpeed is not installed (pip install deepspeed)")
    one, two = (tmp_path / name for name in ("one", "two"))
    one.mkdir(), two.mkdir()
    with warnings.catch_warnings():
        process_runs.run_zero3(one, kind)
    monkeypatch.setenv("DS_ACCELERATOR", "cpu")
    config = str(ROOT / "configs" / "accelerate" / "zero3.yaml")
    launch("--config_file", config, SCRIPT, str(two), kind, processes=2, sharded=True)
    alone, found, other = facts(one, 0, "zero3"), facts(two, 0, "zero3"), facts(two, 1, "zero3")
    assert found == other and found["world"] == 2 and found["shapes"] == [[0]] and not found["record"]["folded"]
    assert found["measured"] == pytest.approx(alone["measured"], rel=1e-5, abs=1e-6)
    assert found["temperature"] == pytest.approx(alone["temperature"], rel=1e-3)
    expected = load_file(one / "zero3.safetensors")["logits"]
    torch.testing.assert_close(load_file(two / "zero3.safetensors")["logits"], expected, rtol=0, atol=1e-5)
    saved, whole = (load_file(folder / "out" / "model.safetensors") for folder in (two, one))
    assert saved.keys() == whole.keys()
    for name, weights in whole.items():
        torch.testing.assert_close(saved[name], weights, rtol=0, atol=1e-5)
    hf_focal.fold_checkpoint(two / "out")
    samples = data(kind, 37, seed=1)
    (name,) = {*samples[0]} - {"labels"}
    with torch.no_grad():
        folded = hf_focal.from_pretrained(two / "out")(torch.stack([row[name] for row in samples])).logits
    torch.testing.assert_close(folded, expected / found["temperature"], rtol=0, atol=1e-5)


# ---- Configurations -------------------------------------------------------------------------------------------------


def launched(name, *flags):
    """The arguments of `accelerate launch` with a configuration of ours."""
    path = ROOT / "configs" / "accelerate" / f"{name}.yaml"
    args = launcher.launch_command_parser().parse_args(["--config_file", str(path), *flags, "script.py"])
    return launcher._validate_launch_command(args)[0], yaml.safe_load(path.read_text())


def test_every_key_of_the_configurations_is_one_that_accelerate_knows():
    names = {path.stem for path in (ROOT / "configs" / "accelerate").glob("*.yaml")}
    assert names == {"fsdp2", "zero3", "two_nodes"}
    for name in names:
        args, stated = launched(name, *(["--main_process_ip", "10.0.0.1"] if name == "two_nodes" else []))
        for part in ("fsdp_config", "deepspeed_config"):
            for key, value in stated.get(part, {}).items():
                assert str(getattr(args, key)).lower() == str(value).lower(), (name, key)
        assert args.num_processes == stated["num_processes"] and args.mixed_precision == "no"


def test_the_configurations_ask_for_what_they_say(monkeypatch):
    monkeypatch.setattr(environments, "is_port_in_use", lambda port: False)
    args, _ = launched("fsdp2")
    environment = environments.prepare_multi_gpu_env(args)
    assert environment["FSDP_VERSION"] == "2" and environment["FSDP_STATE_DICT_TYPE"] == "FULL_STATE_DICT"
    assert environment["ACCELERATE_USE_FSDP"] == "true" and environment["FSDP_RESHARD_AFTER_FORWARD"] == "true"
    args, _ = launched("zero3")
    assert args.use_deepspeed
    args.deepspeed_fields_from_accelerate_config = []
    _, environment = environments.prepare_deepspeed_cmd_env(args)
    assert environment["ACCELERATE_DEEPSPEED_ZERO_STAGE"] == "3" and environment["ACCELERATE_USE_DEEPSPEED"] == "true"
    assert environment["ACCELERATE_DEEPSPEED_ZERO3_SAVE_16BIT_MODEL"] == "true"
    args, _ = launched("two_nodes", "--main_process_ip", "10.0.0.1", "--machine_rank", "1")
    environments.prepare_multi_gpu_env(args)
    assert (args.nnodes, args.nproc_per_node, args.node_rank) == ("2", "8", 1)
    assert args.rdzv_backend == "static" and args.rdzv_endpoint == "10.0.0.1:29500"


def test_what_cannot_be_gathered_is_kept_in_the_config(tmp_path, monkeypatch, caplog, overconfident):
    """As under ZeRO-3, or FSDP of version 1: the saved model is folded later."""
    from small_models import arguments

    model, samples = overconfident
    trainer = hf_focal.CalibrationTrainer(model=model, args=arguments(tmp_path), eval_dataset=samples)
    monkeypatch.setattr(hf_focal.CalibrationTrainer, "_head_is_elsewhere", lambda self: True)
    with pytest.raises(ValueError, match="head is sharded over processes.*fold_checkpoint"):
        trainer.calibrate(fold=True)
    fit = trainer.calibrate()
    assert "fold_checkpoint" in caplog.text and model.config.calibration["folded"] is False
    trainer.save_model()
    hf_focal.fold_checkpoint(tmp_path)
    batch = torch.stack([row["pixel_values"] for row in samples[:20]])
    with torch.no_grad():
        folded, before = hf_focal.from_pretrained(tmp_path)(batch).logits, model(batch).logits
    assert np.abs(folded.numpy() - fit.calibrator.calibrated_logits(before.numpy())).max() < 1e-4
    assert os.path.isfile(tmp_path / "model.safetensors")
