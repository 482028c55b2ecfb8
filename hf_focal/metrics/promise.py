# Copyright 2026 The hf_focal authors. Licensed under the Apache License, Version 2.0.
"""The confidence from which on a classifier is right as often as is asked for, with a certainty that is stated."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from decimal import ROUND_CEILING, Decimal
from numbers import Real
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.special import betainc, betaincinv

from .scored import Scored, of_probabilities


LEVEL = 0.9  # the certainty of a promise, where nothing else is asked for
# How the tests are laid out, chosen by simulation, see `benchmarks/promise.py`: the share of the samples at which they
# begin, or where that is less the number of samples, to which that without which no test can reject is added so many
# times; and by how much the errors that a step allows grow from one to the next.
_SHARE, _NUMBER, _TIMES = 0.15, 300, 5
_GROWTH = 1.03


@dataclass(frozen=True)
class Promise:
    """
    A threshold on the confidence, and what is promised of the predictions that reach it.

    Attributes:
        threshold (`float`, *optional*): The lowest confidence that is kept; `None` where nothing can be promised.
        accuracy (`float`): How often those kept are right, at least.
        level (`float`): How certain that is, over draws of the data.
        kept (`float`): Share of the samples that it was chosen on, which it keeps.
        observed (`float`, *optional*): Accuracy of these samples.
        n_samples (`int`): Number of samples that it was chosen on.
        why (`str`): Why nothing can be promised, as the end of a sentence, where it is not for want of data.
    """

    threshold: float | None
    accuracy: float
    level: float
    kept: float
    observed: float | None
    n_samples: int
    why: str = ""

    def to_record(self) -> dict[str, Any]:
        """What JSON has to hold of it: the threshold is called `confidence`."""
        entries = asdict(self)
        record = {"accuracy": entries.pop("accuracy"), "level": entries.pop("level")}
        record |= {"confidence": entries.pop("threshold"), **entries}
        return record if self.why else {key: value for key, value in record.items() if key != "why"}

    @classmethod
    def from_record(cls, record: Any) -> Promise | None:
        """That of such a record; `None` where it is none."""
        try:
            found, observed, count = record["confidence"], record["observed"], int(record["n_samples"])
            given = check_target("accuracy", record["accuracy"]), check_level(record["level"]), float(record["kept"])
            ends = [None if value is None else float(value) for value in (found, observed)]
        except (KeyError, TypeError, ValueError, OverflowError):
            return None
        if not (0 <= given[2] <= 1 and all(value is None or 0 <= value <= 1 for value in ends)):
            return None
        return cls(ends[0], *given, ends[1], count, str(record.get("why", "")))

    def on(self, scored: Scored) -> Kept:
        """What it does to other data."""
        kept = scored.confidences.astype(np.float64) >= (np.inf if self.threshold is None else self.threshold)
        count, right = int(kept.sum()), int(scored.correct[kept].sum())
        low, high = exact_interval(right, count, self.level) if count else (None, None)
        return Kept(count, count / len(kept), right / count if count else None, low, high)

    def words(self, kept: Kept | None = None, split: str = "") -> str:
        """One sentence on what it promises and, where it was tried, on what it does to the data called `split`."""
        wanted = f"right at least {_percent(self.accuracy)} of the time"
        certain = f"with {_percent(self.level)} certainty"
        if self.threshold is None:
            few = f"the {self.n_samples} samples are too few for that, or the answers too often wrong"
            few += " (what would keep only a small part of them is not looked for)"
            return f"No confidence is known from which on answers are {wanted}, {certain}: {self.why or few}."
        whole = f"Answers with a confidence of at least {shown(self.threshold)}" if self.kept < 1 else "All answers"
        share = f" ({self.kept:.1%} of them)" if self.kept < 1 else ""
        sentence = f"{whole}{share} are {wanted}, {certain}"
        if kept is None:
            return f"{sentence}."
        if kept.accuracy is None:
            return f"{sentence}; on {split} no answer has it."
        found = f"{kept.accuracy:.1%} of these ({_percent(self.level)} interval {kept.low:.1%} to {kept.high:.1%})"
        return f"{sentence}; on {split} it keeps {kept.share:.1%}, and {found} are right."


@dataclass(frozen=True)
class Kept:
    """
    What a threshold keeps of data that it was not chosen on.

    Attributes:
        count (`int`), share (`float`): Number of predictions that reach it, and their share.
        accuracy, low, high (`float`, *optional*):
            How many of them are right, and the ends of its exact interval (Clopper and Pearson, 1934); `None` where
            none reach it.
    """

    count: int
    share: float
    accuracy: float | None
    low: float | None
    high: float | None


@of_probabilities
def choose_threshold(
    probabilities: ArrayLike, labels: ArrayLike, *, accuracy: float, level: float = LEVEL
) -> float | None:
    r"""
    The lowest confidence from which on predictions are right often enough, with a stated certainty.

    Predictions whose confidence is at or above the threshold are right at least `accuracy` of the time, on average
    over all of them, for data like these. Of all the data sets that could have been drawn, at most `1 - level` lead to
    a threshold that breaks this. Samples of equal confidence are kept or left together, and where all may be kept, the
    threshold is the lowest confidence that there is.

    The samples are sorted by confidence. At some numbers of the most confident ones, from few to many, an exact
    binomial test asks whether their accuracy is below what is wanted, and the first that cannot rule it out ends the
    sequence: the threshold is that of the last test before. Tests in a fixed order, of which the first that fails is
    the last, need no correction for their number. They are at the smallest numbers that allow 0, 1, 2, ... errors,
    later ever further apart, so that the sequence does not end by chance, and begin at 15% of the samples, or of many
    at some hundreds: a model whose few most confident predictions are wrong too often is not given up for that.

    What is proved. Given the confidences, samples are right or wrong independently, and the binomial test holds for
    their mean probability to be right (Hoeffding, 1956): for the samples kept the promise is exact. It is for new data
    as well, if the accuracy above a threshold, once it is below `accuracy` on the way down, stays there. If it comes
    back, that is measured: see `benchmarks/promise.py`. Samples must be independent: the tokens of a sentence or the
    frames of a film are not, and the promise is then too good.

    Args:
        accuracy (`float`):
            How often predictions are to be right, in (0, 1).
        level (`float`, *optional*, defaults to `0.9`):
            How certain that is to be, in [0.5, 1).

    Returns:
        `float` or `None`: The lowest confidence to keep; `None` where these data promise nothing.

    Raises:
        ValueError: If `accuracy` is not in (0, 1) or `level` not in [0.5, 1).

    Example:
    >>> probabilities = np.repeat([[0.95, 0.05], [0.6, 0.4]], 50, axis=0)
    >>> labels = np.repeat([0, 0, 1], [50, 25, 25])  # of the confident all are right, of the others half
    >>> choose_threshold(probabilities, labels, accuracy=0.9)
    0.95
    >>> choose_threshold(probabilities, labels, accuracy=0.99) is None  # 50 samples cannot tell
    True
    """
    check_target("accuracy", accuracy)
    check_level(level)
    return promise_of(*Scored(probabilities, labels).pairs, accuracy, level).threshold


def check_target(name: str, accuracy: Any) -> float:
    """The value as a `float` in (0, 1), or a `ValueError`."""
    if isinstance(accuracy, bool) or not isinstance(accuracy, Real) or not 0 < float(accuracy) < 1:
        hint = ""
        if isinstance(accuracy, Real) and 1 < float(accuracy) < 100:
            hint = f" For {accuracy:g}% give {float(accuracy) / 100:g}."
        raise ValueError(f"{name} must be a number between 0 and 1, neither of them, got {accuracy!r}.{hint}")
    return float(accuracy)


def check_level(level: Any) -> float:
    """The value as a `float` in [0.5, 1), or a `ValueError`."""
    if isinstance(level, bool) or not isinstance(level, Real) or not 0.5 <= float(level) < 1:
        raise ValueError(
            f"level must be a number of at least 0.5 and below 1, got {level!r}. It is how certain the promise is, "
            "such as 0.9."
        )
    return float(level)


def promise_of(
    confidences: NDArray[Any], correct: NDArray[np.bool_], accuracy: float, level: float = LEVEL,
    expected: float | None = None,
) -> Promise:  # fmt: skip
    """
    [`choose_threshold`] of confidences and of what was right, with what it keeps. Of how many of these samples the
    tests begin at a share: by default all, else as many as are `expected` to be right, where that is rare.
    """
    order = np.argsort(-confidences, kind="stable")
    ordered, errors = confidences[order], np.cumsum(~correct[order])
    ends = np.flatnonzero(np.append(ordered[1:] != ordered[:-1], True)) + 1  # of ties
    steps = _steps(len(ordered), accuracy, 1 - level, len(ordered) if expected is None else expected)
    counts = ends[np.searchsorted(ends, steps)]
    fails = np.append(_tail(errors[counts - 1], counts, accuracy) > 1 - level, True)
    passed = int(fails.argmax())
    if not passed:
        return Promise(None, accuracy, level, 0.0, None, len(ordered))
    chosen = int(counts[passed - 1])
    observed = (chosen - int(errors[chosen - 1])) / chosen
    return Promise(float(ordered[chosen - 1]), accuracy, level, chosen / len(ordered), observed, len(ordered))


def exact_interval(right: int, count: int, level: float) -> tuple[float, float]:
    """The interval of Clopper and Pearson (1934) for how often something is true that was true so often."""
    tail = (1 - level) / 2
    low = 0.0 if right == 0 else float(betaincinv(right, count - right + 1, tail))
    return low, 1.0 if right == count else float(betaincinv(right + 1, count - right, 1 - tail))


def _percent(share: float) -> str:
    return f"{100 * share:g}%"


def shown(threshold: float) -> str:
    """The threshold with four decimals, or more next to 1, rounded up: what is below is not promised."""
    digits = 4 if threshold >= 1 else max(4, 1 - int(np.floor(np.log10(1 - threshold))))
    return f"{Decimal(threshold).quantize(Decimal(10) ** -digits, ROUND_CEILING).normalize():f}"


def _tail(errors: Any, counts: Any, accuracy: float) -> Any:
    """How likely so few errors are, or fewer, among so many samples that are right with the probability `accuracy`."""
    return np.where(errors < counts, betainc(np.maximum(counts - errors, 1), errors + 1, accuracy), 1.0)


def _steps(count: int, accuracy: float, error: float, expected: float) -> NDArray[np.int64]:
    """At which numbers of the most confident samples to test, where so much error is allowed."""
    allowed = [0]
    while allowed[-1] < (1 - accuracy) * count:
        allowed.append(max(allowed[-1] + 1, int(np.ceil(_GROWTH * allowed[-1]))))
    sizes = _smallest(np.array(allowed), count, accuracy, error)
    if sizes[0] > count:  # not even without an error
        return np.empty(0, np.int64)
    steps = np.unique(np.append(sizes[sizes <= count], count))
    return steps[steps >= min(_SHARE * expected, _NUMBER + _TIMES * steps[0])]


def _smallest(errors: NDArray[np.int64], count: int, accuracy: float, error: float) -> NDArray[np.int64]:
    """The smallest number of samples that may have so many errors and pass; above `count` where that is too few."""
    low, high = errors.copy(), np.full(len(errors), count + 1)
    high = np.maximum(high, low + 1)
    while np.any(high - low > 1):
        middle = (low + high) // 2
        passes = _tail(errors, middle, accuracy) <= error
        low, high = np.where(passes, low, middle), np.where(passes, middle, high)
    return high
