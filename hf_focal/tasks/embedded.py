# Copyright 2026 The hf_focal authors. Licensed under the Apache License, Version 2.0.
"""Small data sets of packages that are installed: scikit-learn's digits, and SciPy's documentation (BSD-3-Clause)."""

from __future__ import annotations

import importlib
import inspect
import re

import numpy as np
from datasets import ClassLabel, Dataset, Features, Image, Value


DIGITS = "digits"
SCIPY_DOCS = "scipy-docs"
SUBPACKAGES = ("interpolate", "linalg", "ndimage", "optimize", "signal", "sparse", "special", "stats")
_HEADING = re.compile(r"\n+[A-Z][\w ]+\n-{3,}")
_SIGNATURE = re.compile(r"[\w.]+\(.*\)")


def digits() -> Dataset:
    """1,797 scanned digits of 8 by 8 pixels, with the digit as `label`."""
    from sklearn.datasets import load_digits

    scans = load_digits()
    rgb = list(np.repeat(np.round(scans.images * (255 / 16)).astype(np.uint8)[..., None], 3, axis=3))
    features = Features({"image": Image(), "label": ClassLabel(names=[str(name) for name in scans.target_names])})
    return Dataset.from_dict({"image": rgb, "label": scans.target}, features=features)


def scipy_docs() -> Dataset:
    """Descriptions, of four words or more, with the subpackage that they are of as `label`; none comes twice."""
    found: dict[str, set[str]] = {}
    for subpackage in SUBPACKAGES:
        module = importlib.import_module(f"scipy.{subpackage}")
        for name in sorted(module.__all__):
            text = _description(inspect.getdoc(getattr(module, name)) or "")
            if len(text.split()) >= 4:
                found.setdefault(text, set()).add(subpackage)
    rows = {text: min(owners) for text, owners in found.items() if len(owners) == 1}
    features = Features({"text": Value("string"), "label": ClassLabel(names=list(SUBPACKAGES))})
    return Dataset.from_dict({"text": list(rows), "label": list(rows.values())}, features=features)


def _description(doc: str) -> str:
    """The paragraphs before the first heading, without the signatures that some begin with, in one line."""
    paragraphs = [" ".join(paragraph.split()) for paragraph in _HEADING.split(doc)[0].split("\n\n")]
    while paragraphs and _SIGNATURE.fullmatch(paragraphs[0]):
        del paragraphs[0]
    return " ".join(paragraphs).strip()
