# Copyright 2026 The hf_focal authors. Licensed under the Apache License, Version 2.0.
"""The program `hf-focal`: its commands, their names, and what is said where there is none of that name."""

import runpy
import sys
from importlib import import_module

import pytest
import torch
from conftest import ROOT

from hf_focal import CalibrationTrainingArguments, __version__
from hf_focal.cli.arguments import RunArguments
from hf_focal.cli.commands import COMMANDS
from hf_focal.cli.main import main
from hf_focal.cli.run import start_run
from hf_focal.results.lock import release_all


@pytest.fixture
def program(monkeypatch, capsys):
    """Runs `hf-focal` with a command line; returns the exit code, and what it wrote."""

    def run(*words):
        monkeypatch.setattr(sys, "argv", ["/somewhere/bin/hf-focal", *words])
        code = 0
        try:
            main()
        except SystemExit as end:
            code = end.code or 0
        return code, *capsys.readouterr()

    return run


@pytest.mark.parametrize("words", [(), ("--help",), ("-h",)])
def test_alone_it_lists_the_commands_with_one_line_each(program, words):
    code, out, err = program(*words)
    lines = [line.split(maxsplit=1) for line in out.splitlines()]
    assert code == 0 and err == "" and max(map(len, out.splitlines())) <= 80
    for name, command in COMMANDS.items():
        assert lines.count([name, command.about]) == 1
    assert "accelerate launch -m hf_focal COMMAND" in out


def test_it_tells_its_version(program):
    assert program("--version") == (0, f"hf-focal {__version__}\n", "")


def test_every_script_has_a_command_and_every_command_a_script():
    scripts = {path.stem for path in (ROOT / "scripts").glob("*.py")}
    assert scripts == {command.module for command in COMMANDS.values()}
    for name, command in COMMANDS.items():
        assert runpy.run_path(str(ROOT / "scripts" / f"{command.module}.py"))["main"] is command, name
        text = (ROOT / "hf_focal" / "cli" / f"{command.module}.py").read_text()
        assert f'    start("{name}")\n' in text


@pytest.mark.parametrize(
    ("word", "name"),
    [("calibrate", "calibrate"), ("run_image", "run-image"), ("run_ood", "ood"), ("compare_runs", "compare"),
     ("Run-Text", "run-text"), ("plot_dynamics.py", "plot-dynamics"), ("run-ood", "ood")],
)  # fmt: skip
def test_names_of_scripts_are_understood(program, word, name):
    code, out, _ = program(word, "--help")
    assert code == 0 and out.startswith(f"usage: hf-focal {name} ")


@pytest.mark.parametrize(
    ("words", "line"),
    [
        (["calibrat"], "hf-focal: error: There is no command 'calibrat'. Did you mean 'calibrate'?"),
        (["run-imgae", "--help"], "hf-focal: error: There is no command 'run-imgae'. Did you mean 'run-image'?"),
        (["x"], f"hf-focal: error: There is no command 'x'. It is one of {', '.join(COMMANDS)}."),
        (["--hepl"], "hf-focal: error: There is no flag --hepl before a command. Did you mean '--help'?"),
        (["--loss", "x"], "hf-focal: error: There is no flag --loss before a command. See hf-focal --help."),
        (
            ["run-image", "--learning_rat", "1"],
            "hf-focal run-image: error: There is no flag --learning_rat. Did you mean '--learning_rate'?",
        ),
        (["run-image", "--loss", "focla"], "Did you mean 'focal'?"),
        (["calibrate"], "required: --model_name_or_path"),
        (["compare_runs", "--hlep"], "hf-focal compare: error: There is no flag --hlep. Did you mean '--help'?"),
        (["compare", "none"], "hf-focal compare: error: There is no such folder: none."),
    ],
)
def test_a_mistake_is_one_line_and_exit_code_2(program, words, line, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    code, out, err = program(*words)
    assert code == 2 and out == "" and err.count("\n") == 1 and line in err
    assert err.startswith("hf-focal") and not list(tmp_path.iterdir())


def test_the_command_runs_what_the_script_runs(program, monkeypatch, tmp_path):
    seen = []
    for command in COMMANDS.values():
        module = import_module(f"hf_focal.cli.{command.module}")
        monkeypatch.setattr(module, "main", lambda name=command.module: seen.append((name, sys.argv[1:])))
    for name, command in COMMANDS.items():
        assert program(name, "--flag", "value")[0] == 0
        monkeypatch.setattr(sys, "argv", ["script", "--flag", "value"])
        runpy.run_path(str(ROOT / "scripts" / f"{command.module}.py"), run_name="__main__")
        with pytest.raises(SystemExit) as end:
            runpy.run_path(str(ROOT / "hf_focal" / "cli" / f"{command.module}.py"), run_name="__main__")
        assert end.value.code is None
        assert seen == [(command.module, ["--flag", "value"])] * 3
        seen.clear()


@pytest.mark.parametrize(
    ("argv", "start"),
    [("/bin/hf-focal run-image", "-m hf_focal run-image"), ("scripts/run_image.py", "scripts/run_image.py")],
)
def test_one_process_uses_one_of_several_gpus_and_says_how_all_are_used(argv, start, monkeypatch, tmp_path, caplog):
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setattr(sys, "argv", [argv])
    assert CalibrationTrainingArguments(str(tmp_path)).n_gpu == 2  # which trainers refuse
    args = RunArguments(str(tmp_path))
    assert args.n_gpu == 1 and args.train_batch_size == args.per_device_train_batch_size
    with caplog.at_level("WARNING"):
        start_run(args, "data", "model")
    assert f"Using one of 2 GPUs: accelerate launch {start} uses all of them." in caplog.text
    caplog.clear()
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    with caplog.at_level("WARNING"):
        start_run(RunArguments(str(tmp_path)), "data", "model")
    release_all()
    assert "GPU" not in caplog.text
