# Copyright 2026 The hf_focal authors. Licensed under the Apache License, Version 2.0.
"""How results are shown: coloured in a terminal alone, plain elsewhere, and no line too wide."""

import os
import re
import sys
from types import SimpleNamespace

import numpy as np
import pytest
from transformers import PrinterCallback, ProgressCallback

from hf_focal import Predictions, fit_calibrator, make_report
from hf_focal.cli import terminal
from hf_focal.cli.log_lines import LogLines, log_line, use_log_lines


CODES = re.compile(r"\033\[[\d;]+m")
SWITCHES = ("NO_COLOR", "FORCE_COLOR", "CLICOLOR", "CLICOLOR_FORCE", "TERM")


class Screen:
    """A standard output that is a terminal, or says so."""

    def __init__(self, is_terminal=True):
        self.text, self._is_terminal = "", is_terminal

    def write(self, text):
        self.text += text

    def flush(self):
        pass

    def isatty(self):
        return self._is_terminal


@pytest.fixture
def screen(monkeypatch):
    for name in SWITCHES:
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("TERM", "xterm")

    def start(is_terminal=True, columns=80, **environment):
        for name, value in environment.items():
            monkeypatch.setenv(name, value)
        made = Screen(is_terminal)
        monkeypatch.setattr(sys, "stdout", made)
        monkeypatch.setattr(terminal.shutil, "get_terminal_size", lambda _: os.terminal_size((columns, 24)))
        return made

    return start


def report(classes=4, split="test", **about):
    generator = np.random.default_rng(0)
    logits = 2 * generator.normal(size=(900, classes))
    labels = (logits + generator.gumbel(size=logits.shape)).argmax(axis=1)
    fit = fit_calibrator(3 * logits[:400], labels[:400], "temperature")
    groups = np.arange(500) // 5 if about else None
    return make_report(Predictions(3 * logits[400:], labels[400:], groups, split), fit, **about)


def test_the_first_sentence_comes_first_and_all_lines_fit():
    split = "validation[10%:20%] (the second half of it)"
    for made in (report(), report(40, split, unit="tokens", group="sentence")):
        for width in (60, 80, 100):
            first, _, rest = made.text(width).partition("\n\n")
            assert " ".join(first.split()) == made.headline and first.startswith(("Calibrated", "Nearly", "Still"))
            assert "\033" not in made.text(width)
            lines = made.text(width).splitlines()
            assert max(map(len, lines)) <= max(width, 72), max(lines, key=len)
            assert max(map(len, made.text(80).splitlines())) <= 80
            table = rest.split("\n\n")[0]
            for key in ("ece", "nll"):
                assert f"{made.after[key]:{'.2%' if key == 'ece' else '.4f'}}" in table
            words = " ".join(made.text(width).split())
            assert made.gain in words and made.words in words and made.map_name in words
            assert "  better" in table and ("- interval" in table) == (width == 60)


def test_better_and_worse_are_those_of_the_comparison():
    made = report()
    words = {"a_is_better": "worse", "b_is_better": "better", "undecided": ""}
    rows = {line.split("  ")[0]: line for line in made.text().splitlines()}
    for key, title in (("accuracy", "Error"), ("nll", "NLL"), ("brier", "Brier"), ("ece", "ECE"), ("mce", "MCE")):
        found = re.search(r"  (better|worse)$", rows[title])
        assert (found[1] if found else "") == words[made.changes[key].verdict], title


def test_colours_are_for_terminals_and_say_nothing_that_words_do_not(screen):
    text = report().text()
    shown = screen()
    terminal.show(text)
    assert CODES.search(shown.text) and CODES.sub("", shown.text) == text + "\n"
    assert re.search(r"  \033\[36mbetter\033\[0m\n", shown.text)
    for options in (
        {"is_terminal": False}, {"NO_COLOR": "1"}, {"NO_COLOR": "1", "FORCE_COLOR": "1"},
    ):  # fmt: skip
        shown = screen(**options)
        terminal.show(text)
        assert shown.text == text + "\n", options


@pytest.mark.parametrize(
    ("environment", "is_terminal", "expected"),
    [
        ({}, True, True), ({}, False, False), ({"TERM": "dumb"}, True, False), ({"CLICOLOR": "0"}, True, False),
        ({"NO_COLOR": ""}, True, True), ({"FORCE_COLOR": "1"}, False, True), ({"FORCE_COLOR": "0"}, False, False),
        ({"CLICOLOR_FORCE": "1"}, False, True), ({"FORCE_COLOR": "1", "NO_COLOR": "1"}, True, False),
    ],
)  # fmt: skip
def test_the_usual_variables_are_heeded(screen, environment, is_terminal, expected):
    screen(is_terminal, **environment)
    assert terminal.coloured() is expected


def test_lines_are_as_wide_as_the_terminal_within_limits(screen):
    for size, expected in ((20, 60), (72, 72), (80, 80), (250, 100)):
        screen(columns=size)
        assert terminal.columns() == expected
    screen(is_terminal=False, columns=250)
    assert terminal.columns() == 80


def test_a_log_is_a_line_that_a_person_reads(screen, monkeypatch):
    logs = {"eval_loss": 0.5, "eval_accuracy": 0.9081, "eval_nll": 0.46481, "eval_brier": 0.1994, "eval_ece": 0.1966,
            "eval_mce": 0.4, "eval_runtime": 3.0, "eval_samples_per_second": 3.0, "epoch": 2.0}  # fmt: skip
    assert log_line(logs) == "epoch 2: error 9.19%, NLL 0.4648, Brier 0.1994, ECE 19.66%"
    assert (
        log_line({"loss": 0.34671, "grad_norm": 2.0, "learning_rate": 0.1, "epoch": 0.5}) == "epoch 0.5: loss 0.3467"
    )
    assert log_line({"train_runtime": 1234.5, "train_loss": 1.0, "epoch": 3}) == "epoch 3: trained in 1,234 s"
    assert log_line({"eval_f1": 0.5, "eval_runtime": 1.0, "epoch": 1}) == "epoch 1: eval f1 0.5"
    written = []
    lines = LogLines()
    lines.training_bar = SimpleNamespace(write=written.append)
    state = SimpleNamespace(is_world_process_zero=True)
    lines.on_log(None, state, None, logs=logs)
    lines.on_log(None, SimpleNamespace(is_world_process_zero=False), None, logs=logs)
    assert written == [log_line(logs)]


@pytest.mark.parametrize(
    ("is_terminal", "callback", "used"),
    [(True, ProgressCallback, True), (False, ProgressCallback, False), (True, PrinterCallback, False)],
)
def test_logs_stay_as_they_are_elsewhere(screen, is_terminal, callback, used):
    screen(is_terminal)
    callbacks = [callback()]
    trainer = SimpleNamespace(callback_handler=SimpleNamespace(callbacks=callbacks))
    trainer.remove_callback = lambda kind: callbacks.remove(next(one for one in callbacks if type(one) is kind))
    trainer.add_callback = callbacks.append
    use_log_lines(trainer)
    assert [type(one) for one in callbacks] == [LogLines if used else callback]
