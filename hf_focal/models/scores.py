# Copyright 2026 The hf_focal authors. Licensed under the Apache License, Version 2.0.
"""Which maps of logits are maps of each score of an image-text model, as its `logit_scale` and `logit_bias` do."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from torch import Tensor

from ..calibrators.base import Affine, Calibrator, UnfoldableError
from ..networks.zero_shot import BIAS, SCALE, has_scale, has_sigmoids


_OFF = 1e-3  # of a factor: no less is told by data


def for_scores(model: Any, affine: Affine, noun: str) -> Affine:
    """
    The map as one of each score, whose scale and shift are numbers, or an [`UnfoldableError`]; of a model that is no
    image-text model the map as it is.
    """
    if not has_scale(model):
        return affine
    sigmoid, name = has_sigmoids(model), type(model).__name__
    shifted = affine.shift is not None
    if not _are_alike(affine.scale) or (shifted and not (sigmoid and _are_alike(affine.shift))):
        what = "one logit_scale and one logit_bias" if sigmoid else "one logit_scale"
        fit = "a scale and a shift that all labels share (method='platt', shared=True)" if sigmoid else "a temperature"
        raise UnfoldableError(
            f"No {noun} can be folded into {name}: it has {what} for all labels, and nothing of a class that "
            f"could take a factor or a shift. Fit {fit}."
        )
    scale = scale_of_scores(affine)
    if not 0 < scale < np.inf:
        raise UnfoldableError(
            f"No {noun} can be folded into {name}: its factor is exp(logit_scale), which is positive."
        )
    if shifted and BIAS not in model._parameters:  # noqa: SLF001
        raise UnfoldableError(f"No {noun} can be folded into {name}: it has no logit_bias, which a shift needs.")
    return Affine(scale, np.asarray(shift_of_scores(affine)) if shifted else None)


def _are_alike(values: Any) -> bool:
    """Whether they are a number, or the same one for each label."""
    return np.ndim(values) == 0 or np.ndim(values) == 1 and bool(np.all(values == values[0]))


def scale_of_scores(affine: Affine) -> float:
    """What a score is multiplied by, where that is the same for all labels."""
    return float(np.reshape(affine.scale, -1)[0])


def shift_of_scores(affine: Affine) -> float:
    """What is added to a score, where that is the same for all labels."""
    return 0.0 if affine.shift is None else float(np.reshape(affine.shift, -1)[0])


def score_map(model: Any, calibrator: Calibrator) -> Affine:
    """What a calibrator does to each score of an image-text model, of however many labels."""
    return for_scores(model, calibrator.affine(model.config.num_labels), calibrator.noun)


def rounding_of(before: Mapping[str, Tensor], after: Mapping[str, Tensor], affine: Affine) -> str:
    """What to say where a `logit_scale` of half precision is not what it should be, since it is a logarithm."""
    factor = float((after[SCALE].double() - before[SCALE].double()).exp())
    off = abs(factor / float(affine.scale) - 1)
    if off < _OFF:
        return ""
    return (
        f"logit_scale is the logarithm of a factor, and in {str(after[SCALE].dtype).removeprefix('torch.')} holds one "
        f"of {factor:.5g} in place of {float(affine.scale):.5g} ({off:.1%} off). Load the model with "
        "dtype=torch.float32 before it is calibrated, or keep the calibrator in the config (fold=False)."
    )
