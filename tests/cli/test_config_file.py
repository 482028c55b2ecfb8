# Copyright 2026 The hf_focal authors. Licensed under the Apache License, Version 2.0.
"""What a file of arguments says, as it is written there, or one sentence about what is wrong with it."""

import json
from dataclasses import asdict, dataclass, field
from typing import Literal

import pytest

from hf_focal import parse_arguments


@dataclass
class Options:
    seed: int = 0
    rate: float = 0.1
    name: str | None = "none yet"
    output_dir: str = "out"
    switch: bool = False
    guard: bool | None = True
    strategy: Literal["no", "epoch"] = "epoch"
    tags: list[str] = field(default_factory=lambda: ["a"])
    sizes: list[float] | None = None
    kwargs: dict | str | None = None
    report_to: None | str | list[str] = None


def read(tmp_path, content, name="settings.yaml", flags=()):
    """What the file changes."""
    (tmp_path / name).write_bytes(content if isinstance(content, bytes) else content.encode())
    (options,) = parse_arguments([Options], ["--config", str(tmp_path / name), *flags])
    return {key: value for key, value in asdict(options).items() if value != asdict(Options())[key]}


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("rate: 1e-3", {"rate": 0.001}),
        ("rate: -1.5E+2", {"rate": -150.0}),
        ("seed: -1", {"seed": -1}),
        ("seed: 010", {"seed": 10}),
        # A text is what is written: no number, date or truth value is made of it.
        ("name: 1.10", {"name": "1.10"}),
        ("name: 2026-01-01", {"name": "2026-01-01"}),
        ("name: 1:30", {"name": "1:30"}),
        ("name: yes", {"name": "yes"}),
        ("name: 'null'", {"name": "null"}),
        ("name: ''", {"name": ""}),
        ("name: a=b c", {"name": "a=b c"}),
        ("name: --output_dir=elsewhere", {"name": "--output_dir=elsewhere"}),
        ("name: null", {"name": None}),
        ("name:", {"name": None}),
        ("guard: ~", {"guard": None}),
        ("switch: on", {"switch": True}),
        ("switch: yes", {"switch": True}),
        ("switch: 'True'", {"switch": True}),
        ("guard: off", {"guard": False}),
        ("strategy: no", {"strategy": "no"}),
        ("tags: []", {"tags": []}),
        ("tags: one", {"tags": ["one"]}),
        ("tags: [--seed, '3', --output_dir=elsewhere, -x, --, no, 2.50]",
         {"tags": ["--seed", "3", "--output_dir=elsewhere", "-x", "--", "no", "2.50"]}),
        ("sizes: [-1, 1e5, .5]", {"sizes": [-1.0, 1e5, 0.5]}),
        ("report_to: [one, two]", {"report_to": ["one", "two"]}),
        ("report_to: one", {"report_to": "one"}),
        ("base: &base 7\n".replace("base", "seed") + "sizes: [*seed]", {"seed": 7, "sizes": [7.0]}),
        ("<<: {seed: 3, rate: 2}\nseed: 4", {"seed": 4, "rate": 2.0}),
        ("\ufeffseed: 3\r\nrate: 2\r\n", {"seed": 3, "rate": 2.0}),
    ],
)  # fmt: skip
def test_a_value_is_what_is_written(tmp_path, text, expected):
    assert read(tmp_path, text) == expected


def test_mappings_keep_the_types_of_their_values(tmp_path):
    text = "kwargs: {rate: 1e-3, steps: [1, 2.5], on_time: no, day: 2026-01-01, deep: {none: null, text: '1e-3'}}"
    expected = {"rate": 0.001, "steps": [1, 2.5], "on_time": False, "day": "2026-01-01"}
    expected["deep"] = {"none": None, "text": "1e-3"}
    assert json.loads(read(tmp_path, text)["kwargs"]) == expected


def test_json_says_the_same(tmp_path):
    content = '{"rate": 1e-3, "tags": ["--seed=3", 1, true], "switch": true, "name": null, "kwargs": {"a": [1e-3]}}'
    found = read(tmp_path, content, "settings.json")
    expected = {"rate": 0.001, "tags": ["--seed=3", "1", "true"], "switch": True, "name": None}
    assert found == {**expected, "kwargs": '{"a": [0.001]}'}
    assert read(tmp_path, b"\xef\xbb\xbf" + content.encode(), "settings.json") == found


def test_flags_replace_what_the_file_says_whole(tmp_path):
    assert read(tmp_path, "tags: [x, y]\nseed: 3", flags=["--tags", "z"]) == {"tags": ["z"], "seed": 3}


@dataclass
class Needed:
    model: str


def test_a_file_may_have_what_must_be_given(tmp_path):
    (tmp_path / "settings.yaml").write_text("model: --x")
    assert parse_arguments([Needed], ["--config", str(tmp_path / "settings.yaml")]) == (Needed("--x"),)
    with pytest.raises(ValueError, match="arguments are required: --model"):
        parse_arguments([Needed], [])


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("seed: 1\nseed: 2\n", "the key 'seed' comes twice, again in line 2"),
        ("kwargs:\n  a: {b: 1, b: 2}\n", "the key 'b' comes twice, again in line 2"),
        ("tags: [{a: 1, a: 1}]", "the key 'a' comes twice"),
        (b"seed: 1 # caf\xe9\n", "is not in UTF-8"),
        ("seed: 1".encode("utf-16"), "is not in UTF-8"),
        ("", "mapping .*got nothing"),
        ("just words", "mapping .*got str"),
        ("seed: 1\n\trate: 2", "not valid YAML in line 2"),
        ("seed: [1\nrate: 2", "not valid YAML in line 2: while parsing a flow sequence: expected ',' or ']'"),
        ("seed: 1\n---\nseed: 2", "not valid YAML in line 2: expected a single document"),
        ("name: \x07", "not valid YAML"),
        ("name: !!python/object/apply:os.getcwd []", "not valid YAML in line 1: could not determine a constructor"),
        ("name: !!binary aGk=", "not valid YAML in line 1: could not determine a constructor"),
        ("tags: &tags [*tags]", "recursion"),
        ("1: 2", "the key '1' in line 1 is no name"),
        ("kwargs: {on: 2}", "the key 'on' in line 1 is no name"),
        ("sed: 1", "unknown keys: sed. Keys are the names of flags. Did you mean 'seed'?"),
        ("seed: 1.0", "argument --seed: invalid int value: '1.0'"),
        ("seed:", "seed has no value"),
        ("strategy: epochs", "argument --strategy: there is no 'epochs'. Did you mean 'epoch'?"),
        ("switch: maybe", "argument --switch: Truthy value expected: got maybe"),
        ("seed: [1]", r"seed takes a single value, got \['1'\]"),
        ("name: {a: 1}", "name takes a single value"),
        ("kwargs: [1]", "kwargs takes a single value"),
        ("tags: [a, null]", "tags takes a list of single values"),
        ("sizes: [[1]]", "sizes takes a list of single values"),
    ],
)
def test_a_file_that_says_nothing_sound_is_refused_by_name(tmp_path, content, message):
    with pytest.raises(ValueError, match=f"settings.yaml.*{message}") as refused:
        read(tmp_path, content)
    assert len(str(refused.value).splitlines()) == 1


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ('{"seed": 1, "seed": 2}', "the key 'seed' comes twice"),
        ('{"kwargs": {"a": {"b": 1, "b": 2}}}', "the key 'b' comes twice"),
        ('{"seed": 1,}', "not valid JSON"),
        ('{"seed": "caf\xe9"}'.encode("latin-1"), "not in UTF-8"),
        ("[]", "mapping"),
        ('{"seed": true}', "argument --seed: invalid int value: 'true'"),
        ('{"tags": [null]}', "tags takes a list of single values"),
    ],
)
def test_json_is_refused_likewise(tmp_path, content, message):
    with pytest.raises(ValueError, match=f"settings.json.*{message}"):
        read(tmp_path, content, "settings.json")


def test_a_second_file_is_not_passed_over(tmp_path):
    with pytest.raises(ValueError, match="--config is given 2 times"):
        read(tmp_path, "seed: 1", flags=["--config", "other.yaml"])


def test_a_folder_is_no_file(tmp_path):
    with pytest.raises(ValueError, match="is no file"):
        parse_arguments([Options], ["--config", str(tmp_path)])


def test_a_home_folder_may_be_called_by_its_sign(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    (options,) = parse_arguments([Options], ["--output_dir=~/runs", "--tags", "~/a", "~b", "--name", "~"])
    home = str(tmp_path)
    assert (options.output_dir, options.tags, options.name) == (f"{home}/runs", [f"{home}/a", "~b"], home)
    assert read(tmp_path, "output_dir: ~/runs")["output_dir"] == f"{home}/runs"
