# Copyright 2026 The hf_focal authors. Licensed under the Apache License, Version 2.0.
"""Command-line arguments of the scripts: dataclasses, and a YAML or JSON file whose values explicit flags override."""

from __future__ import annotations

import dataclasses
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import yaml
from transformers import HfArgumentParser


def parse_arguments(
    dataclass_types: Sequence[type], arguments: Sequence[str] | None = None, **parser_kwargs: Any
) -> tuple[Any, ...]:
    """
    Parse flags into one object per dataclass. `--config file.yaml` (or `.json`) sets values that explicit flags
    override; what neither names keeps its default.

    Args:
        dataclass_types (`Sequence[type]`):
            Dataclasses, such as `CalibrationTrainingArguments`; every field is a flag.
        arguments (`Sequence[str]`, *optional*, defaults to `sys.argv[1:]`):
            The command line.
        parser_kwargs:
            As for `argparse.ArgumentParser`.

    Returns:
        `tuple`: One instance per dataclass.

    Raises:
        ValueError: If the file cannot be read, is no mapping, or has a key that no dataclass has.
        SystemExit: If a flag is unknown or its value does not parse, as usual for argparse.
    """
    arguments = list(sys.argv[1:] if arguments is None else arguments)
    # Abbreviations are off: `--learning_rat` in a job script should fail, not guess.
    types: Any = list(dataclass_types)
    parser = HfArgumentParser(types, allow_abbrev=False, **parser_kwargs)
    parser.add_argument("--config", help="YAML or JSON file of arguments; explicit flags override it.")
    config, rest = _split_config(arguments)
    fields = {field.name: field for cls in dataclass_types for field in dataclasses.fields(cls) if field.init}
    tokens = [] if config is None else _tokens(config, fields)
    # Of a flag given twice argparse keeps the last, so the file's come first.
    *parsed, _ = parser.parse_args_into_dataclasses([*tokens, *rest], look_for_args_file=False)
    return tuple(parsed)


def _split_config(arguments: list[str]) -> tuple[Path | None, list[str]]:
    config, rest, waiting = None, [], False
    for argument in arguments:
        if waiting:
            config, waiting = Path(argument), False
        elif argument == "--config":
            waiting = True
        elif argument.startswith("--config="):
            config = Path(argument.removeprefix("--config="))
        else:
            rest.append(argument)
    if waiting:
        raise ValueError("--config needs the path of a YAML or JSON file.")
    return config, rest


def _tokens(path: Path, fields: dict[str, dataclasses.Field]) -> list[str]:
    """The file as command-line tokens, so that one parser checks every value."""
    if not path.is_file():
        raise ValueError(f"--config names {path}, which is no file.")
    text = path.read_text(encoding="utf-8")
    try:
        values = json.loads(text) if path.suffix == ".json" else yaml.safe_load(text)
    except (json.JSONDecodeError, yaml.YAMLError) as error:
        raise ValueError(f"{path} is not valid {'JSON' if path.suffix == '.json' else 'YAML'}: {error}") from error
    if not isinstance(values, dict):
        raise ValueError(f"{path} must hold a mapping of argument names to values, got {type(values).__name__}.")
    unknown = [str(key) for key in values if key not in fields]
    if unknown:
        raise ValueError(f"{path} has unknown keys: {', '.join(unknown)}. Keys are the names of flags.")
    tokens = []
    for key, value in values.items():
        if isinstance(value, list):
            tokens += [f"--{key}", *map(str, value)]
        elif value is not None:
            tokens.append(f"--{key}={json.dumps(value) if isinstance(value, dict) else value}")
    return tokens
