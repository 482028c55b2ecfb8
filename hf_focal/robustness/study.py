# Copyright 2026 The hf_focal authors. Licensed under the Apache License, Version 2.0.
"""What `run_ood.py` finds of models, before and after calibration: measured first, then shown, then saved."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from datasets import Dataset
from numpy.typing import ArrayLike, NDArray
from safetensors.numpy import save_file
from transformers import Trainer, TrainingArguments

from ..calibrators import Calibrator, TemperatureScaling, calibrator_of
from ..checks import check_logits, refuse_masked_labels
from ..hub.load import from_pretrained, load_processor
from ..metrics import METRICS, Scored
from ..metrics import measure as measure_metrics
from ..metrics.intervals import interval_of
from ..metrics.noise import floor_of
from ..metrics.promise import Promise, promise_of, shown
from ..metrics.risk_coverage import confident_predictions, risk_coverage_curve
from ..metrics.scored import ScoredLogits
from ..models.fold import unfold_calibrator
from ..models.head import check_single_label
from ..models.original import kept_original
from ..models.record import calibration_record
from ..results.plots.picture import Picture
from ..results.replace import replacing
from ..results.tables import cell, fill, split_table, text_table, with_interval, with_noise, wrap_titles
from ..tasks import ImageClassification
from ..tasks.columns import match_labels
from ..tasks.transforms import ImageInputs, ImageTransform
from .corruptions import ImageCorruption
from .ood import DetectionResult, Floats, detection, ood_scores, score_pairs
from .plots import risk_coverage_diagram, roc_diagram, severity_diagram


RESULTS, TABLES = "ood_results.json", "ood_results.txt"
ENTROPIES = "ood_entropies.safetensors"  # by title of a model, then of data, then moment; what the AUROC is made of
FAMILIAR = "familiar"  # there, in the place of a title of other data
LEVEL = 0.9  # of the intervals
INTERVALS = ("accuracy", "nll", "ece")  # the metrics that are drawn against severity


class UncalibratedModel:
    """A checkpoint of an image classifier, and its logits as they were before it was calibrated."""

    def __init__(self, name: str, output_dir: str, batch_size: int = 128) -> None:
        self.name, self._model = name, from_pretrained(name, task=ImageClassification.name)
        config: Any = self._model.config
        check_single_label(self._model, "Scores of unfamiliar and corrupted images")
        # A model that never was calibrated has the temperature 1.
        record = calibration_record(self._model) or {"temperature": 1.0, "folded": False}
        self.loss, self.calibrator = record.get("loss"), calibrator_of(record)
        # Of what is folded into the head, which is not to be rounded twice where it is not known what the head was.
        self._undo = None
        if record["folded"] and kept_original(self._model):
            unfold_calibrator(self._model)
        elif record["folded"]:
            self._undo = self.calibrator.affine(config.num_labels).inverse()
        config.calibration = None  # its logits are then those of the weights, and divided by nothing
        self.class_names = [config.id2label[index] for index in range(config.num_labels)]
        processor = load_processor(name, ImageClassification.name, self._model)
        ImageClassification().prepare(self._model, processor)
        self._transform = ImageTransform(processor)
        args = TrainingArguments(
            output_dir, per_device_eval_batch_size=batch_size, eval_accumulation_steps=16, report_to="none",
            remove_unused_columns=False, dataloader_pin_memory=torch.cuda.is_available(),
        )  # fmt: skip
        self._trainer = Trainer(model=self._model, args=args)

    @property
    def is_main_process(self) -> bool:
        """Whether this process has something to measure: all of them predict, and each has the logits of all."""
        return self._trainer.is_world_process_zero()

    def logits(self, data: Dataset, *corruption: ImageCorruption) -> NDArray[Any]:
        """Those of images, which may be corrupted first; every process must ask for them."""
        corruptions = [one.of_mode(self._transform.mode).corrupt for one in corruption]
        images = ImageInputs(data, self._transform.after(*corruptions))
        found = self._trainer.predict(images).predictions
        logits = np.asarray(found[0] if isinstance(found, tuple) else found)
        return logits if self._undo is None else self._undo(logits.astype(np.float64))

    def labels(self, labels: ArrayLike, class_names: Sequence[str]) -> NDArray[np.int64]:
        """The classes of the data as outputs of the model; refused where it does not know one that occurs."""
        indices = np.asarray(labels)
        return np.array(match_labels(class_names, self.class_names, set(indices.tolist())))[indices]


@dataclass(frozen=True)
class Findings:
    """What was measured of one model; the innermost keys are `"before"` and `"after"` calibration."""

    model: str
    loss: str | None
    calibrator: Calibrator
    # By other data, then by score.
    ood: dict[str, dict[str, dict[str, DetectionResult]]] = field(default_factory=dict)
    # By corruption, then by severity, 0 for the test data as they are: the metrics, and some of their intervals.
    shift: dict[str, dict[int, dict[str, dict[str, Any]]]] = field(default_factory=dict)
    # The threshold, what [`ConfidentPredictions`] holds, `aurc`, and where it was asked for `promise`.
    selective: dict[str, dict[str, Any]] = field(default_factory=dict)
    # By other data: that of each test sample, and of each of theirs.
    entropies: dict[str, dict[str, tuple[Floats, Floats]]] = field(default_factory=dict)
    curves: dict[str, tuple[Floats, Floats]] = field(default_factory=dict)


def measure(
    logits: ArrayLike, labels: ArrayLike, others: Iterable[tuple[str | ImageCorruption, ArrayLike]],
    calibrator: Calibrator, *, model: str = "", loss: str | None = None, corruptions: Sequence[str] = (),
    threshold: float | None = None, target_accuracy: float | None = None, n_bins: int = 15, n_resamples: int = 1000,
    seed: int = 0,
) -> Findings:  # fmt: skip
    """
    All figures of one model, from logits before calibration. `others` are logits of other data by their title, and of
    the test data by what corrupted them; they are asked for one at a time, and not kept.
    """
    array, indices = check_logits(logits, labels)
    refuse_masked_labels(array, indices)
    moments = {"before": TemperatureScaling(1.0), "after": calibrator}
    found = Findings(model, loss, calibrator)

    def metrics(scored: Scored) -> dict[str, Any]:
        values = measure_metrics(scored, n_bins)
        intervals = {key: interval_of(METRICS[key], scored, n_bins, LEVEL, seed=seed) for key in INTERVALS}
        return {
            **values,
            "intervals": intervals,
            "by_chance": asdict(floor_of(METRICS["ece"], scored, n_bins, LEVEL, seed=seed)),
        }

    clean = {}
    for moment, one in moments.items() if corruptions or threshold is not None else ():
        scored = ScoredLogits(array, indices, one)
        if corruptions:
            clean[moment] = metrics(scored)
        if threshold is not None:
            probabilities = scored.probabilities
            found.curves[moment] = risk_coverage_curve(probabilities, indices)
            confident = asdict(confident_predictions(probabilities, indices, threshold))
            aurc = float(found.curves[moment][1].mean())
            found.selective[moment] = {"threshold": threshold, **confident, "aurc": aurc}
            if target_accuracy is not None:
                found.selective[moment]["promise"] = promise_of(*scored.pairs, target_accuracy).to_record()
    found.shift.update({name: {0: clean} for name in corruptions})

    inside = {moment: _scores(array, one) for moment, one in moments.items()}
    for key, values in others:
        title, other = str(key), check_logits(values)[0]
        if isinstance(key, ImageCorruption):
            title = f"{key.name} {key.severity}"
            found.shift[key.name][key.severity] = {
                moment: metrics(Scored.from_logits(other, indices, one)) for moment, one in moments.items()
            }
        pairs = score_pairs(inside, {moment: _scores(other, one) for moment, one in moments.items()})
        found.ood[title] = {name: detection(row, n_resamples=n_resamples, seed=seed) for name, row in pairs.items()}
        found.entropies[title] = pairs["entropy"]
        del values, other  # before the next are made
    return found


def _scores(logits: NDArray[Any], calibrator: Calibrator) -> dict[str, Floats]:
    """[`ood_scores`] of calibrated logits."""
    parameters = calibrator.to_record()
    if parameters.keys() <= {"temperature", "gamma"}:  # the energy depends on the temperature alone
        return ood_scores(logits, **parameters)
    return ood_scores(calibrator.calibrated_logits(logits.astype(np.float64)))


@dataclass(frozen=True)
class Study:
    """What was found of several models, by their titles, on the same data."""

    dataset: str
    num_samples: int
    seed: int
    panels: Sequence[str]  # the other data that are shown; all are saved
    models: dict[str, Findings] = field(default_factory=dict)


def titles_of(models: Sequence[UncalibratedModel]) -> list[str]:
    """The losses where they tell the models apart, else the names of their folders, else what was given."""
    for titles in ([model.loss for model in models], [Path(model.name).name for model in models]):
        if None not in titles and len(set(titles)) == len(models):
            return [str(title) for title in titles]
    return [model.name for model in models]


def tables(study: Study, width: int | None = None) -> str:
    """All figures that are shown, as text; with a width as more tables, which are no wider where names are short."""
    parts = []
    for title, found in study.models.items():
        heading = f"== {title}: {study.dataset}, {study.num_samples} images, {found.calibrator}"
        parts.append(heading if width is None else fill(heading, width, indent="   "))
        for header, rows, named in _tables_of(found, study.panels, narrow=width is not None):
            if width is None:
                parts.append(text_table(header, rows))
            else:
                header, *rows = wrap_titles([header, *rows], width)
                parts.append(split_table(text_table, header, rows, named, width))
    return "\n\n".join(parts)


_Table = tuple[list[str], list[list[str]], int]  # the titles, the rows, and how many columns tell them apart


def _tables_of(found: Findings, panels: Sequence[str], narrow: bool) -> Iterator[_Table]:
    if panels:
        yield _auroc_table({panel: found.ood[panel] for panel in panels}, narrow)
    for name, by_severity in found.shift.items():
        yield from _shift_tables(name, by_severity, narrow)
    if found.selective:
        yield _selective_table(found.selective)


def _auroc_table(found: dict[str, dict[str, dict[str, DetectionResult]]], narrow: bool) -> _Table:
    title, rows = "AUROC (90% interval)", []
    for panel, scores in found.items():
        for score, row in scores.items():
            cells = [with_interval(one.auroc, (one.low, one.high)) for one in row.values()]
            rows.append([f"- {score}", *cells] if narrow else [panel, score, *cells])
        if narrow:
            rows.insert(-len(scores), [panel, "", ""])
    return [title, *([] if narrow else ["score"]), "before", "after"], rows, 1 if narrow else 2


def _shift_tables(name: str, by_severity: dict[int, dict[str, dict[str, Any]]], narrow: bool) -> Iterator[_Table]:
    # A temperature changes no answer; other maps may.
    moved = any(row["before"]["accuracy"] != row["after"]["accuracy"] for row in by_severity.values())
    told = {"before": "error before", "after": "error after"} if moved else {"after": "error"}
    plain, binned, whole = [], [], []
    for severity, row in by_severity.items():
        title = f"severity {severity}"
        wrong = [cell(1 - row[moment]["accuracy"]) for moment in told]
        nlls = [cell(one["nll"], ".4f") for one in row.values()]
        errors = [with_noise(one["ece"], one["by_chance"]["high"]) for one in row.values()]
        ends = [" to ".join(map(cell, one["intervals"]["ece"])) for one in row.values()]
        chance = [one["by_chance"] for one in row.values()]
        floors = [with_interval(one["median"], (one["low"], one["high"])) for one in chance]
        below = [["- true value", *ends], ["- by chance", *floors]]
        plain.append([title, *wrong, *nlls])
        binned += [[title, *errors], *below]
        blank = [""] * len(wrong)
        whole.append([title, *wrong, *errors, *nlls])
        whole += [[first, *blank, *cells, "", ""] for first, *cells in below]
    eces, scores = ["ECE before", "ECE after"], ["NLL before", "NLL after"]
    if narrow:
        yield [name, *told.values(), *scores], plain, 1
        yield [name, *eces], binned, 1
    else:
        yield [name, *told.values(), *eces, *scores], whole, 1


def _selective_table(found: dict[str, dict[str, Any]]) -> _Table:
    rows = [
        [moment, f"{one['count']} ({cell(one['share'])})", cell(one["accuracy"]), cell(one["aurc"])]
        for moment, one in found.items()
    ]
    head = ["calibration", f"confidence >= {found['after']['threshold']:g}", "of these right", "AURC"]
    if promise := Promise.from_record(found["after"].get("promise")):
        head.append(f"right at least {promise.accuracy:g} (certainty {promise.level:g})")
        for cells, one in zip(rows, found.values(), strict=True):
            cells.append(_kept(Promise.from_record(one["promise"])))
    return head, rows, 1


def _kept(promise: Promise | None) -> str:
    if promise is None or promise.threshold is None:
        return "none can be promised"
    return f"confidence >= {shown(promise.threshold)} ({cell(promise.kept)})"


def pictures(study: Study) -> dict[str, Picture]:
    """The models beside each other, by the name of a file."""
    models = study.models.items()
    shifts = {name: {title: found.shift[name] for title, found in models} for _, one in models for name in one.shift}
    drawn = {f"severity_{name}.png": severity_diagram(shift) for name, shift in shifts.items()}
    if study.panels:
        of_panels = {panel: {title: found.entropies[panel] for title, found in models} for panel in study.panels}
        drawn["roc.png"] = roc_diagram(of_panels)
    if any(found.curves for _, found in models):
        drawn["risk_coverage.png"] = risk_coverage_diagram({title: found.curves for title, found in models})
    return drawn


def save(study: Study, folder: str | Path) -> list[str]:
    """Write figures, tables and pictures into a folder, and say what the files are called."""
    drawn = pictures(study)
    figures = {}
    for title, found in study.models.items():
        calibration: dict[str, Any] = {"temperature": 1.0, "gamma": 0.0, **found.calibrator.to_record()}
        if len(calibration) > 2:  # of another method, whose fields may be called as what was measured
            calibration = {"calibrator": {"method": found.calibrator.method, **found.calibrator.to_record()}}
        measured = {"ood": found.ood, "shift": found.shift, "selective": found.selective}
        figures[title] = {"model": found.model, "loss": found.loss, **calibration, **measured}
    whole = {"dataset": study.dataset, "num_samples": study.num_samples, "seed": study.seed, "models": figures}
    with replacing(folder, "files") as staged:
        (staged / RESULTS).write_text(json.dumps(whole, indent=2, default=asdict) + "\n", encoding="utf-8")
        (staged / TABLES).write_text(tables(study) + "\n", encoding="utf-8")
        save_file(dict(_entropies(study)), staged / ENTROPIES)
        for name, figure in drawn.items():
            figure.savefig(staged / name)
    return [RESULTS, TABLES, ENTROPIES, *drawn]


def _entropies(study: Study) -> Iterator[tuple[str, NDArray[np.float32]]]:
    """Those of the familiar samples once for each model, and of each of the other data."""
    for title, found in study.models.items():
        for index, (panel, by_moment) in enumerate(found.entropies.items()):
            for moment, (inside, outside) in by_moment.items():
                yield f"{title}/{panel}/{moment}", np.asarray(outside, np.float32)
                if index == 0:
                    yield f"{title}/{FAMILIAR}/{moment}", np.asarray(inside, np.float32)
