# Copyright 2026 The hf_focal authors. Licensed under the Apache License, Version 2.0.
"""A grid from YAML: its cells, their commands, and what it refuses."""

import shlex

import pytest
import yaml
from conftest import ROOT

from hf_focal.cli import run_image, run_ood, run_text
from hf_focal.cli.arguments import TrainArguments, parse_arguments
from hf_focal.reproduction.grid import missing_places, read_grid


TABLE = {
    "script": "run_text",
    "flags": {"dataset_name": {"folder": "sst", "hub": "user/sst"}, "num_train_epochs": 3},
    "models": {"tree-lstm": {"paper": "SST Binary, Tree-LSTM", "losses": {"focal-3": {"num_train_epochs": 5}}}},
    "losses": {"cross_entropy": None, "focal-3": {"loss": "focal", "gamma": 3}},
    "seeds": [1, 2],
    "measured": {"samples": 130, "step": 0.5, "rest": 10},
}


def written(tmp_path, **changes):
    file = tmp_path / "grid.yaml"
    file.write_text(yaml.safe_dump({"sst": {**TABLE, **changes}}))
    return file


def test_a_table_is_every_model_loss_and_seed_with_one_seed_first(tmp_path):
    (table,) = read_grid(written(tmp_path), "data")
    names = [f"sst/tree-lstm-{loss}-seed{seed}" for seed in (1, 2) for loss in ("cross_entropy", "focal-3")]
    assert [cell.name for cell in table.cells] == names
    focal = table.cells[1]
    assert focal.flags == {
        "model_name_or_path": "tree-lstm", "loss": "focal", "gamma": 3, "num_train_epochs": 5, "seed": 1
    }  # fmt: skip
    assert focal.places == {"dataset_name": "data/sst"} and focal.paper == "SST Binary, Tree-LSTM"
    # 130 samples in batches of 64 are 3 steps an epoch.
    assert [cell.seconds for cell in table.cells[:2]] == [10 + 0.5 * 3 * 3, 10 + 0.5 * 3 * 5]


def test_data_come_from_the_hub_where_no_folder_is_given(tmp_path):
    assert read_grid(written(tmp_path))[0].cells[0].places == {"dataset_name": "user/sst"}
    flags = {"dataset_name": {"folder": "sst"}}
    cells = read_grid(written(tmp_path, flags=flags))[0].cells
    assert missing_places(cells) == ["--dataset_name of sst"]
    cells = read_grid(written(tmp_path, flags=flags), tmp_path)[0].cells
    assert missing_places(cells) == [str(tmp_path / "sst")]
    (tmp_path / "sst").mkdir()
    assert missing_places(cells) == []


def test_the_published_settings_are_a_table_of_their_own(tmp_path):
    file = written(tmp_path, released={"lr_milestones": [1], "seed": 9})
    (table,) = read_grid(file, released=True)
    assert {cell.seed for cell in table.cells} == {9} and table.name == "sst-released"
    assert all(cell.flags["lr_milestones"] == [1] for cell in table.cells)
    assert read_grid(written(tmp_path), released=True) == []


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"seed": [1]}, "unknown key, 'seed'. Did you mean 'seeds'"),
        ({"losses": {}}, "sst lacks losses"),
        ({"script": "train"}, "must be one of run_image, run_text, got 'train'"),
        ({"measured": {"step": 1}}, "must hold rest, samples, step, got step"),
    ],
)
def test_what_nothing_reads_is_refused_with_the_file(tmp_path, changes, message):
    with pytest.raises(ValueError, match=rf"grid.yaml: .*{message}"):
        read_grid(written(tmp_path, **changes))


def test_no_file_and_no_yaml_are_one_sentence_each(tmp_path):
    with pytest.raises(ValueError, match="There is no grid .*none.yaml: start in the checkout"):
        read_grid(tmp_path / "none.yaml")
    (tmp_path / "bad.yaml").write_text("a: [")
    with pytest.raises(ValueError, match="bad.yaml is not valid YAML"):
        read_grid(tmp_path / "bad.yaml")


@pytest.mark.parametrize(("preset", "released"), [("smoke", False), ("cpu", False), ("gpu", True)])
def test_every_command_of_a_preset_parses(preset, released, tmp_path, monkeypatch):
    monkeypatch.chdir(ROOT)
    seen = set()
    for table in read_grid(f"configs/grid/{preset}.yaml", "data", released):
        for cell in table.cells:
            train, *ood = cell.commands(tmp_path)
            if (key := (cell.script, cell.loss)) in seen:
                continue
            seen.add(key)
            script = {"run_image": run_image, "run_text": run_text}[cell.script]
            # Which a machine without a GPU refuses.
            words = shlex.split(shlex.join(train[1:]).replace("--bf16 true", ""))
            *_, args = parse_arguments([script.ModelArguments, script.DataArguments, TrainArguments], words)
            assert args.output_dir == str(tmp_path / cell.name) and args.seed == cell.seed
            assert args.loss == cell.flags["loss"]
            for command in ood:
                assert parse_arguments([run_ood.OodArguments], command[1:])[0].model_name_or_path == [args.output_dir]
    assert seen


def test_the_presets_run_the_losses_of_the_paper():
    (gpu,) = [one for one in read_grid(ROOT / "configs/grid/gpu.yaml", "data") if one.name == "tiny_imagenet"]
    assert len({cell.loss for cell in gpu.cells}) == 11
    cpu = {table.name: table for table in read_grid(ROOT / "configs/grid/cpu.yaml", "data")}
    assert [len(cpu[name].cells) for name in ("sst", "cifar10", "newsgroups", "tiny_imagenet")] == [20, 18, 6, 2]
