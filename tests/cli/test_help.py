# Copyright 2026 The hf_focal authors. Licensed under the Apache License, Version 2.0.
"""What `--help` prints: ours first, in groups, on a page or two; kept in files that cannot go stale."""

import dataclasses
import subprocess
import sys
from dataclasses import dataclass, field

import pytest
from conftest import ROOT
from transformers import TrainingArguments

from hf_focal import CalibrationTrainingArguments, parse_arguments
from hf_focal.cli import calibrate, run_image, run_ood, run_text
from hf_focal.cli.arguments import RunArguments, TrainArguments
from hf_focal.cli.commands import COMMANDS
from hf_focal.cli.help_texts import help_of


STOCK = {one.name for one in dataclasses.fields(TrainingArguments)}
TRAINING = {"run-image": run_image, "run-text": run_text}


def flags_of(text):
    """The flags of a page, in their order."""
    return [line.split()[0].rstrip(",").lstrip("-") for line in text.splitlines() if line.startswith("  -")]


def said_of(text, flag):
    """What a page says of one flag, in one line."""
    lines = text.split(f"\n  --{flag} ", 1)[1].split("\n")
    rest = [line for line in lines[1:]]
    end = next(index for index, line in enumerate([*rest, ""]) if not line.startswith(" " * 8))
    return " ".join(" ".join([lines[0], *rest[:end]]).split())


def shown(types, capsys, *flags, **options):
    with pytest.raises(SystemExit) as ended:
        parse_arguments(types, [*(flags or ["--help"])], **options)
    assert ended.value.code == 0
    return capsys.readouterr().out


@pytest.mark.parametrize("name", COMMANDS)
def test_what_is_kept_is_what_the_parser_prints(name):
    """Where this fails: `make help-texts`."""
    assert COMMANDS[name].help_text.read_text(encoding="utf-8") == help_of(COMMANDS[name])


def test_no_text_of_help_is_left_over():
    kept = {path.name for path in (ROOT / "hf_focal" / "cli" / "help").iterdir()}
    assert kept == {command.help_text.name for command in COMMANDS.values()}


@pytest.mark.parametrize("name", COMMANDS)
def test_help_fits_two_screens_of_80_columns_and_starts_with_examples(name):
    text = COMMANDS[name].help_text.read_text(encoding="utf-8")
    lines = text.splitlines()
    assert len(lines) <= 165 and max(map(len, lines)) <= 80 and text.isascii()
    assert lines[0].startswith("usage: {program}") and "h" in flags_of(text)
    examples = [index for index, line in enumerate(lines) if line.startswith(f"  hf-focal {name}")]
    assert examples and examples[0] < next(index for index, line in enumerate(lines) if line.startswith("  -"))


@pytest.mark.parametrize("name", TRAINING)
def test_every_flag_of_ours_is_there_once_and_of_the_stock_ones_only_what_a_user_needs_first(name):
    module, found = TRAINING[name], flags_of(COMMANDS[name].help_text.read_text())
    assert len(set(found)) == len(found)
    ours = [TrainArguments, module.ModelArguments, module.DataArguments]
    names = {one.name for cls in ours for one in dataclasses.fields(cls)} - STOCK
    assert names <= set(found)
    first = {"num_train_epochs", "per_device_train_batch_size", "learning_rate", "output_dir", "seed", "bf16"}
    first |= {"push_to_hub", "hub_model_id", "resume_from_checkpoint"}
    assert first <= set(found)
    assert len(STOCK & set(found)) <= 25 < len(STOCK) - 25


def test_calibrate_shows_no_flag_of_a_training_that_there_is_not():
    found = {*flags_of(COMMANDS["calibrate"].help_text.read_text())}
    own = {one.name for cls in (calibrate.ModelArguments, calibrate.DataArguments) for one in dataclasses.fields(cls)}
    assert own | {"calibrator", "temperature_guard", "target_accuracy", "n_bins", "push_to_hub"} <= found
    assert not found & {"loss", "gamma", "learning_rate", "num_train_epochs", "resume_from_checkpoint"}


def test_ood_shows_all_that_it_takes_and_promises_no_more():
    found = flags_of(COMMANDS["ood"].help_text.read_text())
    fields = {one.name for one in dataclasses.fields(run_ood.OodArguments)}
    assert {*found} == fields | {"config", "plugin", "h"} and len(found) == len({*found})


def test_defaults_are_those_of_the_arguments():
    text = COMMANDS["run-image"].help_text.read_text()
    seen = set()
    for cls in (run_image.ModelArguments, run_image.DataArguments, TrainArguments):
        for one in dataclasses.fields(cls):
            default = one.default
            if one.name not in flags_of(text) or default in (None, False, dataclasses.MISSING):
                continue
            expected = "true" if default is True else str(getattr(default, "value", default))
            assert said_of(text, one.name).endswith(f"(default: {expected})"), one.name
            seen.add(one.name)
    assert {"num_train_epochs", "learning_rate", "holdout", "fold_temperature", "seed"} <= seen
    assert "Unset: temperature" in said_of(text, "calibrator")  # of most tasks
    assert "(required)" in said_of(COMMANDS["calibrate"].help_text.read_text(), "model_name_or_path")


# ---- Everything -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("flag", ["--help_all", "--help-all"])
def test_all_arguments_of_transformers_follow_ours(flag, capsys):
    text = shown([run_image.ModelArguments, run_image.DataArguments, TrainArguments], capsys, flag)
    found = flags_of(text)
    assert len(found) == len({*found}) and STOCK <= {*found}
    short = flags_of(COMMANDS["run-image"].help_text.read_text())
    assert found[: len(short)] == short
    assert "of transformers.TrainingArguments:" in text and "One of sgd, " not in text.split("more:")[0]
    assert "adamw_torch" in said_of(text, "optim")  # its choices


def test_all_arguments_are_shown_whatever_else_is_given(capsys):
    text = shown([calibrate.ModelArguments, RunArguments], capsys, "--help_all", "--config", "none.yaml")
    found = flags_of(text)
    assert "loss" in found[found.index("help_all") :] and "learning_rate" in found


# ---- Arguments of others --------------------------------------------------------------------------------------------


@dataclass
class ShapeArguments:
    """Of a script of one's own."""

    size: int = field(metadata={"help": "So many, 50% of them."})
    round: bool = True
    edges: list[str] = field(default_factory=lambda: ["a", "b"])


@dataclass
class MyArguments(TrainArguments):
    """The usual, and one of one's own."""

    colour: str = field(default="red", metadata={"help": "Of the model."})


def test_a_script_of_ones_own_has_groups_as_well(capsys):
    text = shown([ShapeArguments, MyArguments], capsys, description="What it does.\n\n  python own.py\n")
    assert "\n\nWhat it does.\n\n  python own.py\n\nshape:\n" in text
    assert text.splitlines()[0].endswith(" --size N [flags]")
    assert said_of(text, "size") == "N So many, 50% of them. (required)"
    assert said_of(text, "round") == "(default: true)" and said_of(text, "edges") == "TEXT ... (default: a b)"
    assert "\nmy:\n" in text and said_of(text, "colour") == "TEXT Of the model. (default: red)"
    assert flags_of(text).count("round") == 1 and "no_round" not in text


def test_arguments_without_groups_leave_out_the_stock_ones(capsys):
    found = flags_of(shown([CalibrationTrainingArguments], capsys))
    assert {"loss", "calibrator", "masked_classes"} <= {*found} and "adam_beta1" not in found and len(found) < 30


# ---- At once --------------------------------------------------------------------------------------------------------


WATCH = """
import runpy, sys
sys.argv = sys.argv[1:]
try:
    if sys.argv[0].endswith(".py"):
        runpy.run_path(sys.argv[0], run_name="__main__")
    else:
        runpy.run_module(sys.argv[0], run_name="__main__", alter_sys=True)
except SystemExit as end:
    print("exit", end.code or 0)
print({"torch", "transformers", "numpy", "datasets", "scipy", "matplotlib", "timm"} & {*sys.modules})
"""


@pytest.mark.parametrize(
    ("words", "program"),
    [
        (["scripts/run_image.py", "--help"], "run_image.py"),
        (["hf_focal.cli.calibrate", "-h"], "calibrate.py"),
        (["hf_focal", "run-text", "--lora", "--help"], "hf-focal run-text"),
    ],
)
def test_help_loads_nothing_heavy_and_takes_less_than_two_seconds(words, program):
    import resource

    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    command = [sys.executable, "-c", WATCH, *words]
    result = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, check=True)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    assert result.stdout.endswith("exit 0\nset()\n") and result.stderr == ""
    assert result.stdout.startswith(f"usage: {program}") and "(default: " in result.stdout
    assert after.ru_utime - before.ru_utime + after.ru_stime - before.ru_stime < 2
