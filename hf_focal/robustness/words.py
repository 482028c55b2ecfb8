# Copyright 2026 The hf_focal authors. Licensed under the Apache License, Version 2.0.
"""
What the pictures of unfamiliar data show, in words: a title, and the sentences of an alt text. A model is called
better than another only where their 90% intervals do not overlap.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from ..results.plots.style import short
from .ood import auroc


_Z = 1.6449  # of a 90% interval
# A value with the ends of its interval.
Ranged = tuple[float, float, float]


def auroc_error(in_scores: ArrayLike, out_scores: ArrayLike) -> float:
    """Standard error of [`auroc`] (DeLong et al., 1988); at least that of one sample where all are told apart."""
    shares = []
    for one, other, sign in ((in_scores, out_scores, -1), (out_scores, in_scores, 1)):
        values, among = sign * np.asarray(one, np.float64), np.sort(sign * np.asarray(other, np.float64))
        below, up_to = (np.searchsorted(among, values, side) for side in ("left", "right"))
        shares.append((below + up_to) / (2 * len(among)))
    variance = sum(float(share.var(ddof=1)) / len(share) if len(share) > 1 else 0.25 for share in shares)
    return max(np.sqrt(variance), 0.5 / min(map(len, shares)))


def of_detection(scores: Mapping[str, Mapping[str, Mapping[str, tuple[ArrayLike, ArrayLike]]]]) -> tuple[str, str]:
    """Of each data set which model tells it apart best, by the last moment that is drawn of each."""
    titles, told = [], []
    for title, models in scores.items():
        found: dict[str, Ranged] = {}
        for model, moments in models.items():
            pair = [*moments.values()][-1]
            area, reach = auroc(*pair), _Z * auroc_error(*pair)
            found[model] = area, area - reach, area + reach
        titles.append(f"{short(title)}: {_detected(found)}")
        told.append(f"{title}: AUROC {', '.join(f'{model} {area:.1%}' for model, (area, *_) in found.items())}.")
    return "; ".join(titles), f"{'. '.join(titles)}. {' '.join(told)}"


def _detected(found: Mapping[str, Ranged]) -> str:
    if len(found) == 1:
        ((area, low, high),) = found.values()
        shown = f"AUROC {area:.1%}"
        if high < 0.5:
            return f"taken for more familiar than the test data ({shown})"
        return f"told apart with {shown}" if low > 0.5 else f"no better than chance ({shown})"
    best = max(found, key=lambda model: found[model][0])
    if found[best][1] <= 0.5:
        return f"no model is better than chance ({_areas(found)})"
    if all(found[best][1] > high for model, (_, _, high) in found.items() if model != best):
        return f"{short(best)} tells it apart best (AUROC {found[best][0]:.1%})"
    return f"no model is clearly best ({_areas(found)})"


def _areas(found: Mapping[str, Ranged]) -> str:
    areas = [area for area, *_ in found.values()]
    return f"AUROC {_span(min(areas), max(areas), '.1%')}"


def of_severities(results: Mapping[str, Mapping[int, Mapping[str, Mapping[str, Any]]]]) -> tuple[str, str]:
    """What the ECE after calibration does up to the greatest severity."""
    worst = max(max(by_severity) for by_severity in results.values())
    found = {model: _error(rows[worst]["after"]) for model, rows in results.items() if worst in rows}
    clean = {model: _error(results[model][min(results[model])]["after"]) for model in found}
    listed = ", ".join(f"{model} {clean[model][0]:.1%} and {error[0]:.1%}" for model, error in [*found.items()][:6])
    first = min(min(by_severity) for by_severity in results.values())
    numbers = f"ECE after calibration at severities {first} and {worst}: {listed}."
    if len(found) == 1:
        ((model, last),) = found.items()
        words = f"ECE after calibration {_grown(clean[model], last)} at severity {worst}"
    else:
        grown = all(last[1] > clean[model][2] for model, last in found.items())
        words = f"{'After calibration every ECE grows' if grown else 'ECE after calibration'}; at severity {worst} "
        words += _calibrated(found)
    return words, f"{words}. {numbers}"


def _error(row: Mapping[str, Any]) -> Ranged:
    low, high = row.get("intervals", {}).get("ece", (np.nan, np.nan))
    return row["ece"], low, high


def _grown(clean: Ranged, last: Ranged) -> str:
    if last[1] > clean[2]:
        return f"grows from {clean[0]:.1%} to {last[0]:.1%}"
    if last[2] < clean[1]:
        return f"falls from {clean[0]:.1%} to {last[0]:.1%}"
    known = np.isfinite([*clean, *last]).all()
    return f"is {last[0]:.1%}{', within noise of' if known else ', and'} {clean[0]:.1%} at the least,"


def _calibrated(found: Mapping[str, Ranged]) -> str:
    best, worst = (choose(found, key=lambda model: found[model][0]) for choose in (min, max))
    if found[worst][1] > found[best][2]:
        ends = (f"with {short(model)} ({found[model][0]:.1%})" for model in (best, worst))
        return f"it is lowest {', highest '.join(ends)}"
    shown = _span(found[best][0], found[worst][0], ".1%")
    known = np.isfinite([*found[best], *found[worst]]).all()
    return f"no model is clearly better calibrated ({shown})" if known else f"it is {shown}"


def of_risk(curves: Mapping[str, Mapping[str, tuple[NDArray[Any], NDArray[Any]]]]) -> tuple[str, str]:
    """The error of the surest half of the answers beside that of all, by the last moment of each model."""
    parts = []
    for model, moments in curves.items():
        coverage, risk = [*moments.values()][-1]
        half = risk[min(int(np.searchsorted(coverage, 0.5)), len(risk) - 1)]
        parts.append((model, f"{half:.2%}", f"{risk[-1]:.2%}"))
    shown = ", ".join(f"{short(model)} {half} (of all {whole})" for model, half, whole in parts[:3])
    more = f" and {len(parts) - 3} more" if len(parts) > 3 else ""
    words = f"Error of the surest half of the answers: {shown}{more}"
    return words, f"{words}."


def _span(low: float, high: float, style: str) -> str:
    """Two numbers, or one where they are shown alike."""
    shown = [format(low, style), format(high, style)]
    return " to ".join(dict.fromkeys(shown))
