# Copyright 2026 The hf_focal authors. Licensed under the Apache License, Version 2.0.
"""The one sentence that a person wants first: whether the confidences can be trusted, and by how much they are off."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from ..arrays import check_groups
from ..calibrators import Calibrator
from ..calibrators.confidence import leaning, leans
from ..checks import parts_of, row_blocks
from ..metrics import METRICS, NoiseFloor, Scored, ScoredOutputs
from ..metrics.scored import ScoredPairs


ROUND = (0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 0.95, 0.99, 0.999, 1.0)  # what people say and understand
_TOP = 0.9995  # from here on it is all "more than 99.9%"
FEW = 10  # samples, or groups of them: of fewer nothing is told
LEAST = 3  # right and wrong ones, as the guard needs them
_LOOSE = 0.1  # where so large a true error cannot be ruled out, "calibrated" would say nothing
_SLIGHT = 0.02  # and so small a one is hardly worth a word
CALIBRATED, NEARLY, _UNEVEN = "calibrated", "nearly calibrated", "not calibrated everywhere"
_UNKNOWN = "too little data to tell"
ANSWER, YES = "it is right", "the answer is yes"


@dataclass(frozen=True)
class Near:
    """
    The samples whose confidence is near a round one, as far on each side as their mean is that one.

    Attributes:
        said (`float`): That confidence; of all samples their mean.
        mean (`float`): Mean of their confidences.
        count (`int`): Number of samples.
        right (`float`): Share of them that is right.
        low, high (`float`): Ends of the interval of that share, of whole groups where there are any.
    """

    said: float
    mean: float
    count: int
    right: float
    low: float
    high: float

    @property
    def off(self) -> bool:
        """Whether they are right more often or less often than was said, by more than noise."""
        return not self.low <= self.mean <= self.high

    @property
    def gap(self) -> float:
        """By how much they say more than comes true."""
        return self.mean - self.right

    @property
    def is_felt(self) -> bool:
        """Whether that is more than a little: next to 100% a little is half of what is said to go wrong."""
        return abs(self.gap) >= min(_SLIGHT, (1 - self.mean) / 2)

    @property
    def is_telling(self) -> bool:
        """Whether it is below 99%, with enough samples for an interval of some ten points on each side."""
        return self.said < 0.985 and self.count >= 250 * self.said * (1 - self.said)

    @property
    def shown(self) -> tuple[str, str]:
        """The confidence, and how often they are right, such as `79% of the time (76% to 82%)`."""
        digits = max(int(self.high - self.low < 0.02), _digits(self.said))
        right, low, high = (_percent(share, digits) for share in (self.right, self.low, self.high))
        said = _percent(self.said, digits).replace(".0%", "%") if self.said < _TOP else "more than 99.9%"
        return said, f"{right} of the time ({low} to {high})"


@dataclass(frozen=True)
class Standing:
    """
    How the confidences of a model stand to what comes true.

    Attributes:
        whole ([`Near`]): All samples.
        near (`Sequence[Near]`): Those near a round confidence, for each of which there are enough of them.
        error (`float`), most (`float`): The ECE, and the upper end of the interval of its true value.
        floor ([`NoiseFloor`]): What chance alone would show of it.
        leaning (`str`): `"over"` or `"under"` where mean confidence and accuracy differ by more than noise, else `""`;
            of labels of a sigmoid head `"high"` or `"low"`, too.
        telling (`bool`): Whether enough are right and enough are wrong for anything to be told.
        subject (`str`, *optional*, defaults to `"it is right"`): What comes true as often as was said; of a
            sigmoid head that a label is right, or of a single logit that the answer is yes.
    """

    whole: Near
    near: Sequence[Near]
    error: float
    most: float
    floor: NoiseFloor
    leaning: str
    telling: bool
    subject: str = ANSWER

    @property
    def of_outputs(self) -> bool:
        """Whether it is of probabilities of labels, each of which comes true or not, and not of answers."""
        return self.subject != ANSWER

    @property
    def leans(self) -> str:
        """That it is over- or under-confident, or probabilities of labels too high or too low; `""` for neither."""
        return leans(self.leaning)

    @property
    def is_off(self) -> bool:
        """Whether the ECE is above what chance alone would show."""
        return self.error > self.floor.high

    @property
    def main(self) -> Near:
        """The round confidence that most samples are near, of those below 99% if these do; whatever came true."""

        def rank(near: Near) -> tuple[bool, bool, int]:
            # Most labels are unlikely: what is said of those that are likely tells more.
            return near.is_telling, self.of_outputs and near.said > 0.5, near.count

        return max(self.near, key=rank, default=self.whole)

    @property
    def worst(self) -> Near | None:
        """Where most is amiss by more than noise, in the direction in which the model leans; `None` for nowhere."""
        ones = [
            near
            for near in self.near
            if near.off and self._sign(near) * near.gap >= 0 and (near.is_felt or self.most > _SLIGHT)
        ]  # fmt: skip
        if ones:
            return max(ones, key=lambda near: near.count * abs(near.gap))
        return self.whole if self.leaning and self.whole.is_felt else None

    def _sign(self, near: Near) -> int:
        """Whether it is to say more there than comes true, or less, as it leans."""
        sign = {"over": 1, "high": 1, "under": -1, "low": -1, "": 0}[self.leaning]
        return -sign if self.of_outputs and self.leaning in ("over", "under") and near.said < 0.5 else sign

    def verdict(self) -> tuple[str, Near | None]:
        """What is to be said of it, and the confidence that shows it."""
        if self.is_off:
            if self.worst is not None:
                return self.leans or _UNEVEN, self.worst
            if self.most <= _SLIGHT:
                return NEARLY, self.main
            return (_UNEVEN, None) if self.most <= _LOOSE else (_UNKNOWN, self.main)
        if not self.telling or self.most > _LOOSE:
            return _UNKNOWN, self.main
        return (NEARLY if self.main.off else CALIBRATED), self.main


def standing_of(
    scored: Scored, intervals: dict[str, tuple[float, float]], floors: dict[str, NoiseFloor], error: float,
    groups: ArrayLike | None, level: float,
) -> Standing | None:  # fmt: skip
    """That of samples whose ECE, with the interval and the noise floor of all metrics, is known; `None` of too few."""
    if "ece" not in floors:
        return None
    belongs = scored.groups_of_rows(groups)
    numbers = None if belongs is None else check_groups(belongs, len(scored))
    pairs = ScoredPairs(*scored.pairs)
    confidences = pairs.confidences.astype(np.float64)
    order = np.argsort(confidences, kind="stable")
    ordered = confidences[order]
    sums = np.concatenate([[0.0], np.cumsum(ordered)])
    near = []
    for said in ROUND:
        rows = order[near_window(ordered, sums, np.arange(len(sums)), said)]
        if len(rows) >= FEW and (numbers is None or len(np.unique(numbers[rows])) >= FEW):
            near.append(_near(pairs, rows, numbers, level, said))
    right = int(np.count_nonzero(pairs.correct))
    return Standing(
        whole=_near(pairs, order, numbers, level),
        near=near,
        error=error,
        most=intervals["ece"][1],
        floor=floors["ece"],
        leaning=leaning(scored, groups),
        telling=min(right, len(scored) - right) >= LEAST,
        subject=subject_of(scored),
    )


def subject_of(scored: Scored) -> str:
    """What is right or wrong."""
    if not isinstance(scored, ScoredOutputs):
        return ANSWER
    return "a label is right" if scored.num_outputs > 1 else YES


def near_window(
    ordered: NDArray[np.float64], sums: NDArray[np.float64], counts: NDArray[np.int64], said: float
) -> slice:
    """
    Which of ordered confidences are near one: the widest range whose mean is as good as that; of 1 the top. With what
    the confidences, and the samples that have them, add up to before each, and after the last.
    """
    if said == 1:
        return slice(int(np.searchsorted(ordered, _TOP)), len(ordered))
    half = min(0.05, (1 - said) / 2)
    for _ in range(8):
        first, last = np.searchsorted(ordered, (said - half, said + half))
        count = int(counts[last] - counts[first])
        if count < FEW:
            break
        mean = (sums[last] - sums[first]) / count
        tolerance = min(0.005, (1 - said) / 10, 0.5 * np.sqrt(said * (1 - said) / count))
        if abs(mean - said) <= tolerance:
            return slice(first, last)
        half /= 1.5
    return slice(0, 0)


def _near(
    scored: Scored, rows: NDArray[np.int64], numbers: NDArray[np.int64] | None, level: float, said: float | None = None
) -> Near:
    part, accuracy = scored.take(rows), METRICS["accuracy"]
    belongs = None if numbers is None else np.unique(numbers[rows], return_inverse=True)[1]
    if accuracy.interval is None:
        raise TypeError("The accuracy has no interval.")
    low, high = accuracy.interval(part, level, belongs)
    mean = float(part.confidences.mean())
    return Near(mean if said is None else said, mean, len(rows), float(part.correct.mean()), low, high)


def changed_answers(logits: NDArray[np.generic], calibrator: Calibrator, of_outputs: bool = False) -> float:
    """
    Share of the samples whose answer, the class of the largest logit, is another one after a map; of the outputs of a
    sigmoid head, whose answer is yes or no.
    """
    changed = 0
    if of_outputs:
        for part in parts_of(logits):
            rows = part.astype(np.float64)
            changed += int(np.count_nonzero((rows > 0) != (calibrator.calibrated_logits(rows) > 0)))
        return changed / logits.size
    for _, values, axis in row_blocks(logits, np.float64):
        rows = values if axis else values.T
        mapped, places = calibrator.calibrated_logits(rows), np.arange(len(rows))
        # Logits that fall together by rounding change nothing.
        changed += int(np.count_nonzero(mapped.max(axis=1) > mapped[places, rows.argmax(axis=1)]))
    return changed / len(logits)


def headline(
    before: Standing | None, after: Standing | None, *, left_alone: bool, changed: float, worse: bool, data: str
) -> str:
    """
    One sentence, such as `Calibrated: where it says 80% it is right 79% of the time (76% to 82%); 3% of answers
    changed; of 2,000 test samples 412 say about 80%.`

    "Calibrated" is said where the ECE after calibration is within what chance alone would show and a true ECE of more
    than 10% can be ruled out; then the round confidence is named that most samples are near, which no outcome chooses.
    "Over-confident" and "under-confident" are said where the ECE is above that and mean confidence and accuracy differ
    by more than noise; then that confidence is named at which most is amiss.

    Args:
        before, after ([`Standing`], *optional*): Of the test data; `None` where they are too few to tell of anything.
        left_alone (`bool`): Whether no map was taken.
        changed (`float`): Share of the samples whose answer is another one.
        worse (`bool`): Whether a proper score is worse by more than noise.
        data (`str`): What was measured, such as `2,000 test samples`.
    """
    state, shown = (_UNKNOWN, None) if after is None else after.verdict()
    parts = [] if after is None else [_told(after, shown)]
    if not left_alone and after is not None:
        parts.append(_changed(changed))
    parts.append(_counted(after, shown, data))
    return f"{_head(state, before, after, left_alone, worse)} {'; '.join(parts)}."


def verdict_on(standing: Standing | None, data: str) -> str:
    """The same of a model by itself: `Over-confident: where it says 80% it is right 71% of the time (...); ...`."""
    state, shown = (_UNKNOWN, None) if standing is None else standing.verdict()
    told = [] if standing is None else [_told(standing, shown)]
    return f"{state.capitalize()}: {'; '.join([*told, _counted(standing, shown, data)])}."


def _counted(standing: Standing | None, shown: Near | None, data: str) -> str:
    if standing is None or shown is None or shown is standing.whole:
        return f"measured on {data}"
    return f"of {data} {shown.count:,} say {'about ' * (shown.said < _TOP)}{shown.shown[0]}"


def _told(after: Standing, shown: Near | None) -> str:
    if shown is None:
        what = "its ECE is" if after.subject in (ANSWER, YES) else "the ECE of its labels is on average"
        return f"{what} {after.error:.1%}, where chance explains up to {after.floor.high:.1%}"
    said, right = shown.shown
    if shown is after.whole:
        return f"it says {said} on average and {after.subject.removeprefix('it ')} {right}"
    return f"where it says {said} {after.subject} {right}"


def _head(state: str, before: Standing | None, after: Standing | None, left_alone: bool, worse: bool) -> str:
    """The first words."""
    if left_alone:
        if state == CALIBRATED:  # of a model that leans, however slightly, other sentences say so
            state = "" if after is not None and after.leaning else "calibrated as it is"
        return f"Left alone: {state};" if state else "Left alone:"
    if worse:
        if state in (CALIBRATED, NEARLY):
            return f"{state.capitalize()}, but worse than before:"
        if state != _UNKNOWN:
            return f"Worse than before, {state}:"
    if after is not None and state == after.leans:
        was = before is not None and before.is_off and before.leaning == after.leaning
        return f"{'Still' if was else 'Now'} {state}:"
    return f"{state.capitalize()}:"


def _changed(share: float) -> str:
    if share == 0:
        return "no answer changed"
    return f"{100 * share:.0f}% of answers changed" if share >= 0.01 else f"{100 * share:.1g}% of answers changed"


def _digits(said: float) -> int:
    """Decimals of the percents, so that what is said to go wrong is seen."""
    return 0 if said < 0.985 else 1


def _percent(share: float, digits: int) -> str:
    """With so many decimals; neither 0% nor 100% where it is neither."""
    if min(share, 1 - share) < 1e-9:
        return f"{share:.0%}"
    least = 10.0**-digits
    return f"{min(max(100 * share, least), 100 - least):.{digits}f}%"
