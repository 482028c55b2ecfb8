# Copyright 2026 The hf_focal authors. Licensed under the Apache License, Version 2.0.
"""Flags over file over defaults, and errors for what is unknown."""

import json
import runpy
import sys
from dataclasses import dataclass, field

import pytest
from conftest import ROOT

from hf_focal import CalibrationTrainingArguments, parse_arguments


@dataclass
class Options:
    rate: float = 0.1
    name: str | None = None
    shuffle: bool = True
    tags: list[str] = field(default_factory=list)


def write(folder, values, suffix="yaml"):
    path = folder / f"config.{suffix}"
    path.write_text(values if isinstance(values, str) else json.dumps(values))
    return str(path)


def test_defaults_file_and_flags_in_rising_order(tmp_path):
    config = write(tmp_path, "rate: 1e-3\nname: -file-\nshuffle: false\ntags: [a, b]\n")
    (options,) = parse_arguments([Options], [])
    assert (options.rate, options.name, options.shuffle, options.tags) == (0.1, None, True, [])
    (options,) = parse_arguments([Options], ["--config", config])
    assert (options.rate, options.name, options.shuffle, options.tags) == (1e-3, "-file-", False, ["a", "b"])
    (options,) = parse_arguments([Options], ["--rate", "5", f"--config={config}", "--tags", "c"])
    assert (options.rate, options.name, options.shuffle, options.tags) == (5.0, "-file-", False, ["c"])


def test_json_serves_as_well(tmp_path):
    (options,) = parse_arguments([Options], ["--config", write(tmp_path, {"rate": 2, "name": None}, "json")])
    assert (options.rate, options.name) == (2.0, None)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("rat: 1\n", "unknown keys: rat"),
        ("- rate\n", "mapping"),
        ("rate: [1\n", "not valid YAML"),
        ("", "mapping"),
    ],
)
def test_a_file_that_does_not_fit_is_refused(tmp_path, text, message):
    with pytest.raises(ValueError, match=message):
        parse_arguments([Options], ["--config", write(tmp_path, text)])


def test_a_file_that_is_not_there_is_refused(tmp_path):
    with pytest.raises(ValueError, match="no file"):
        parse_arguments([Options], ["--config", str(tmp_path / "none.yaml")])
    with pytest.raises(ValueError, match="needs the path"):
        parse_arguments([Options], ["--config"])


@pytest.mark.parametrize("flags", [["--rat", "1"], ["--rate", "much"], ["--ratee", "1"]])
def test_flags_are_neither_guessed_nor_ignored(flags):
    with pytest.raises(ValueError, match="--rat"):
        parse_arguments([Options], flags)


def test_values_of_the_file_are_checked_like_flags(tmp_path):
    with pytest.raises(ValueError, match="config.yaml: argument --rate: invalid float value: 'much'"):
        parse_arguments([Options], ["--config", write(tmp_path, "rate: much\n")])


def test_training_arguments_take_dicts_and_lists_from_a_file(tmp_path):
    text = (
        "loss: flsc-531\nloss_kwargs: {milestones: [100, 250]}\nlearning_rate: 1e-1\n"
        "lr_scheduler_kwargs: {milestones: [150, 250]}\nreport_to: [none]\nuse_cpu: true\n"
    )
    (args,) = parse_arguments([CalibrationTrainingArguments], ["--config", write(tmp_path, text), "--output_dir", "x"])
    assert args.loss_kwargs == {"milestones": [100, 250]}
    assert args.learning_rate == 0.1 and args.use_cpu is True and args.output_dir == "x"


@pytest.mark.parametrize("script", sorted(path.name for path in (ROOT / "scripts").glob("*.py")))
def test_every_script_says_what_it_takes(script, monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", [script, "--help"])
    with pytest.raises(SystemExit) as ended:
        runpy.run_path(str(ROOT / "scripts" / script), run_name="__main__")
    assert ended.value.code == 0
    assert capsys.readouterr().out.startswith(f"usage: {script}")
