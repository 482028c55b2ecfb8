# Copyright 2026 The hf_focal authors. Licensed under the Apache License, Version 2.0.
"""The file of `--config`: its values by the names of flags, as they are written there."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import yaml


class _Loader(yaml.SafeLoader):
    """Plain YAML in which 1e-3 is a number, a date is a text, and a key comes once."""

    def compose_mapping_node(self, anchor: Any) -> Any:
        """The node of a mapping, whose keys are texts, each of them once; what it merges (`<<`) may be replaced."""
        node = super().compose_mapping_node(anchor)
        seen = set()
        for key, _ in node.value:
            if key.tag not in ("tag:yaml.org,2002:str", "tag:yaml.org,2002:merge"):
                found = f"the key {key.value!r}" if isinstance(key, yaml.ScalarNode) else "a key"
                raise ValueError(f"{found} in line {key.start_mark.line + 1} is no name. Put it in quotes.")
            if key.value in seen:
                raise ValueError(f"the key {key.value!r} comes twice, again in line {key.start_mark.line + 1}.")
            seen.add(key.value)
        return node


_Loader.yaml_implicit_resolvers = {
    first: [(tag, pattern) for tag, pattern in resolvers if not tag.endswith((":timestamp", ":float"))]
    for first, resolvers in yaml.SafeLoader.yaml_implicit_resolvers.items()
}
_PLAIN = (":null", ":bool", ":int", ":float", ":str", ":seq", ":map")
_Loader.yaml_constructors = {
    tag: make for tag, make in yaml.SafeLoader.yaml_constructors.items() if tag is None or tag.endswith(_PLAIN)
}
_FLOAT = r"[-+]?(\.\d+|\d[\d_]*\.[\d_]*|\d+(?=[eE]))([eE][-+]?\d+)?$|[-+]?\.(inf|Inf|INF)$|\.(nan|NaN|NAN)$"
_Loader.add_implicit_resolver("tag:yaml.org,2002:float", re.compile(_FLOAT), list("-+0123456789."))


def read_config(path: Path) -> dict[str, Any]:
    """
    The values of a YAML file, or a JSON file (`.json`), by the names of flags.

    Returns:
        `dict[str, str | None | list | dict]`: A single value as the text that the file has (a flag's type decides what
        it means, as on a command line), or `None`; a list of such texts; or a mapping, of values of their own types.

    Raises:
        ValueError: If there is no such file, it is not in UTF-8, is no mapping, or has a key twice, at any depth.
    """
    if not path.is_file():
        raise ValueError(f"--config needs the path of a file; {str(path)!r} is no file.")
    is_json = path.suffix.lower() == ".json"
    try:
        text = path.read_text(encoding="utf-8-sig")
        values = _read_json(text) if is_json else _read_yaml(text)
    except yaml.MarkedYAMLError as error:
        line = f" in line {error.problem_mark.line + 1}" if error.problem_mark else ""
        reason = ": ".join(part for part in (error.context, error.problem) if part)
        raise ValueError(f"{path} is not valid YAML{line}: {reason}.") from error
    except (json.JSONDecodeError, yaml.YAMLError) as error:
        reason = " ".join(str(error).split())
        raise ValueError(f"{path} is not valid {'JSON' if is_json else 'YAML'}: {reason}.") from error
    except UnicodeDecodeError as error:
        raise ValueError(f"{path} is not in UTF-8: {error}. Convert it.") from error
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{path}: {error}") from error
    if not isinstance(values, dict):
        found = "nothing" if values is None else type(values).__name__
        raise ValueError(f"{path} must hold a mapping of argument names to values, got {found}.")
    return values


def _read_json(text: str) -> Any:
    values = json.loads(text, object_pairs_hook=unique_keys)
    return {key: _as_written(value) for key, value in values.items()} if isinstance(values, dict) else values


def _read_yaml(text: str) -> Any:
    loader = _Loader(text)
    try:
        node = loader.get_single_node()
        if not isinstance(node, yaml.MappingNode):
            return None if node is None else loader.construct_document(node)
        values = loader.construct_document(node)  # which checks and merges
        nodes = {key.value: value for key, value in node.value}
        return {key: _as_written(value, nodes.get(key)) for key, value in values.items()}
    finally:
        loader.dispose()


def _as_written(value: Any, node: Any = None) -> Any:
    """A single value as its text, of a node of YAML where there is one, and a list as those of its elements."""
    if isinstance(value, list):
        nodes = getattr(node, "value", None) or [None] * len(value)
        return [_as_written(*pair) for pair in zip(value, nodes, strict=True)]
    if value is None or isinstance(value, (str, dict)):
        return value
    return node.value if isinstance(node, yaml.ScalarNode) else json.dumps(value)


def unique_keys(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """A mapping of JSON, for `object_pairs_hook`; a ValueError where a key comes twice."""
    keys = [key for key, _ in pairs]
    if twice := [key for index, key in enumerate(keys) if key in keys[:index]]:
        raise ValueError(f"the key {twice[0]!r} comes twice.")
    return dict(pairs)
