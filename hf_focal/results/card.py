# Copyright 2026 The hf_focal authors. Licensed under the Apache License, Version 2.0.
"""The model card of a calibrated classifier: metrics before and after calibration, in text and in metadata."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from huggingface_hub import EvalResult, ModelCard, ModelCardData

from ..calibrators.base import NONE, Chain, calibrator_of, is_known
from ..losses import loss_label
from ..metrics import ALL_METRICS
from ..metrics.promise import Promise
from ..metrics.scored import SIGMOID
from ..metrics.thresholds import Thresholds
from ..networks import ARCHITECTURES, EXAMPLES, MODEL_TYPES
from ..tasks import TASKS, Task
from ..tasks.base import canonical_task
from ..version import __version__
from .headline import CALIBRATED, NEARLY
from .labels import BY_LABEL, HEADER, words_of_labels, worst_first
from .report import LEVEL, Report
from .serving import Checkpoint, common_factor, export_lines, servers
from .tables import with_interval


_HUB_ID = re.compile(r"[\w.-]+(/[\w.-]+)?")
_MOST_LABELS = 100  # lines of the table of labels


@dataclass(frozen=True)
class About:
    """
    What a card tells beside the numbers.

    Attributes:
        model_name (`str`):
            Heading of the card.
        task (`str`, *optional*):
            Pipeline task, such as `"image-classification"`.
        calibration (`Mapping[str, Any]`, *optional*):
            The model's `config.calibration`; `None` for a model that was never calibrated.
        architecture (`str`, *optional*):
            timm architecture or model type; those that hf_focal registers need an import before they load, and the
            card says so.
        model_type (`str`, *optional*):
            `config.model_type`, by which servers know a model; by default that is the architecture.
        facts (`Mapping[str, str]`, *optional*):
            What else is known of the model and its training, by what it is: entries of a list.
        labels (`Sequence[str]`, *optional*):
            Names of all labels, in order.
        masked (`Sequence[str]`, *optional*):
            Classes that never count at evaluation, see [`mask_classes`].
        adapter (`bool`, *optional*, defaults to `False`):
            Whether the repository holds an adapter of PEFT for `base_model`, and no whole model.
        base_model (`str`, *optional*):
            Hub id of the checkpoint that was fine-tuned.
        dataset (`str`, *optional*):
            Name of the data set, or the Hub id. Of a folder only the last part of the path is told.
        dataset_config, dataset_revision (`str`, *optional*):
            Configuration and revision of the data set.
        pair (`tuple[str, str]`, *optional*):
            Of a classifier of pairs of texts, what the columns of first and second texts are called in the data.
        license, language (`str`, *optional*):
            For the metadata.
        tags (`Sequence[str]`, *optional*):
            Further tags.
    """

    model_name: str
    task: str | None = None
    calibration: Mapping[str, Any] | None = None
    architecture: str | None = None
    model_type: str | None = None
    facts: Mapping[str, str] = field(default_factory=dict)
    labels: Sequence[str] = ()
    masked: Sequence[str] = ()
    adapter: bool = False
    base_model: str | None = None
    dataset: str | None = None
    dataset_config: str | None = None
    dataset_revision: str | None = None
    pair: tuple[str, str] | None = None
    license: str | None = None
    language: str | None = None
    tags: Sequence[str] = ()

    @property
    def local_data(self) -> bool:
        """Whether the data set is none on the Hub."""
        name = self.dataset
        return name is None or name == "digits" or Path(name).exists() or not _HUB_ID.fullmatch(name)

    @property
    def dataset_name(self) -> str:
        """One line for the data set; of a folder the last part."""
        name = self.dataset or ""
        return _one_line(Path(name).name if name and Path(name).exists() else name) or "unnamed"


def create_model_card(about: About, report: Report | None = None, *, model_id: str = ".") -> ModelCard:
    """
    The card as `README.md` of a model repository, with one result per metric, before and after, in its metadata.

    Without a report it has no numbers, and without `about.calibration` it says that the model was never calibrated.

    Args:
        about ([`About`]):
            What it is of.
        report ([`Report`], *optional*):
            What was measured.
        model_id (`str`, *optional*, defaults to `"."`):
            What the usage snippet loads: the id on the Hub, or a folder.

    Returns:
        `huggingface_hub.ModelCard`: `card.save("README.md")` writes it.
    """
    if about.task is not None:
        about = replace(about, task=canonical_task(about.task))
    record = dict(about.calibration or {})
    if record.get("then"):  # what was put on top changes the probabilities, whatever was fitted before
        record.pop("helped", None)
    if not record:
        report = None
    calibrator = calibrator_of(record) if record and is_known(record) else None
    noun = calibrator.noun if calibrator else "calibrator"
    card_data = ModelCardData(
        library_name="peft" if about.adapter else "transformers",
        pipeline_tag=about.task,
        license=about.license,
        language=about.language,
        # Whatever a model was trained with that was only calibrated here is not known.
        tags=["calibration", *(["focal-loss"] if record.get("loss") else []), "hf_focal", *about.tags],
        metrics=list(report.after) if report else None,
        datasets=None if about.local_data else [str(about.dataset)],
        base_model=about.base_model if about.base_model and _HUB_ID.fullmatch(about.base_model) else None,
        model_name=_one_line(about.model_name),
        eval_results=list(_results(about, report, noun)) or None if report else None,
    )
    steps = calibrator.steps if isinstance(calibrator, Chain) else (calibrator,) if calibrator else ()
    known = [step.words for step in steps if not step.fitted and step.method != NONE]  # priors and class weights
    left_alone = record.get("helped") is False or record.get("method") == NONE
    folded, unchanged = record.get("folded", True), left_alone and not known
    task = TASKS.get(about.task or "", Task)  # of an unknown task, what a task says by default
    words = task.card_words(record)
    place = "`calibration.json`" if about.adapter else "`config.calibration`"
    architecture = about.architecture or ""
    rows = report.rows() if report else []
    fitted = not left_alone and (not steps or steps[0].fitted)
    certain = report is None or _is_calibrated(report)
    plain = (folded or unchanged) and (not about.masked or architecture in MODEL_TYPES)
    own = architecture if architecture in (*ARCHITECTURES, *MODEL_TYPES) and folded and not about.adapter else None
    checkpoint = None
    sigmoids = _sigmoids(record, report)
    many = sigmoids is not None and sigmoids != 1
    if calibrator and about.task and not about.adapter and not about.masked:
        kind = about.model_type or architecture
        left = None if plain else common_factor(calibrator)
        checkpoint = Checkpoint(model_id, about.task, _one_line(kind), plain, left, own, sigmoids)
    return ModelCard.from_template(
        card_data,
        template_path=str(Path(__file__).with_name("model_card_template.md")),
        model_name=_one_line(about.model_name),
        model_id=json.dumps(model_id),
        task=about.task,
        # What a downloaded config says is as little to be trusted as the name of a data set.
        record={key: _one_line(str(value)) for key, value in record.items()},
        loss=_loss(record),
        calibrator=_one_line(str(calibrator or record.get("method", ""))),
        noun=noun,
        named=calibrator.named if calibrator else noun,
        left_alone=left_alone,
        unchanged=unchanged,
        fitted=fitted,
        certain=certain,
        kind="calibrated" if fitted and certain and not (report and report.worse) else "these",
        known=" ".join(known),
        worse=report is not None and report.worse,
        by_hand=calibrator.by_hand(place) if calibrator else "",
        folded=folded,
        report=report,
        fitted_on_test=report is not None and record.get("split") == report.split and not unchanged,
        dataset=about.dataset_name if about.dataset else None,
        test_split=_one_line(report.split) if report else "",
        unit=report.unit if report else task.unit,
        intervals=_about_intervals(report) if report and report.intervals else "",
        table=[" | ".join(row) for row in rows if not row[0].startswith("-")],
        details=[" | ".join(row) for row in rows],
        headline=_one_line(report.headline) if report else "",
        told=_one_line(" ".join(filter(None, (report.words, report.gain)))) if report else "",
        promised=_one_line(report.promised if report else _promised(record)),
        thresholds=_one_line(_thresholds(record, about.labels)),
        # Importing hf_focal.pipeline registers them as well. Those of texts heed masks by themselves.
        plain=plain,
        own=own,
        servers=servers(checkpoint) if checkpoint else [],
        export=export_lines(checkpoint) if checkpoint else "",
        spread=_spread(report, folded),
        harm=_one_line(_harm(report)) if report else "",
        alt=report.alt_text if report and report.bins else "Reliability diagram before and after calibration",
        facts=_facts(about),
        masked=", ".join(f"`{_one_line(name)}`" for name in about.masked),
        adapter=about.adapter,
        example=_example(about, EXAMPLES.get(architecture, task.example)),
        example_options=", top_k=None" if many and about.task == "text-classification" else words.options,
        activation="softmax" if sigmoids is None else "sigmoid",
        meaning=_meaning(sigmoids),
        labels=[" | ".join(map(_one_line, one.cells)) for one in worst_first(report.labels)[:_MOST_LABELS]]
        if report and many
        else [],
        label_titles=" | ".join(HEADER),
        of_labels=words_of_labels(report.labels) if report and many else "",
        left_out=max(len(report.labels) - _MOST_LABELS, 0) if report else 0,
        by_label=BY_LABEL,
        card_note=words.note,
        card_limit=_one_line(words.limit),
        head=words.head,
        version=__version__,
    )


def _example(about: About, single: str) -> str:
    """The input of the snippet, as Python."""
    if about.pair is None:
        return f'"{single}"'
    first, second = (_one_line(name) for name in about.pair)
    return json.dumps({"text": f"The {first}.", "text_pair": f"The {second}."})


def _sigmoids(record: Mapping[str, Any], report: Report | None) -> int | None:
    """Of a sigmoid head how many labels it has, 0 where that is not known; `None` of a softmax."""
    if report and report.labels:
        return len(report.labels)
    return 0 if record.get("activation") == SIGMOID else None


def _meaning(sigmoids: int | None) -> str:
    """What is to be right 80% of the time."""
    if sigmoids is None:
        return "to be right 80% of the time"
    return "the answer to be yes 80% of the time" if sigmoids == 1 else "a label to be right 80% of the time"


def _facts(about: About) -> dict[str, str]:
    """The facts as entries of a list, with what a checkpoint was made from."""
    base = {"base model": about.base_model} if about.base_model and _HUB_ID.fullmatch(about.base_model) else {}
    pair = {"inputs": "pairs of texts, {} as `text` and {} as `text_pair`".format(*about.pair)} if about.pair else {}
    return {key: _one_line(text) for key, text in {**pair, **about.facts, **base}.items()}


def _is_calibrated(report: Report) -> bool:
    """Whether the first sentence of the report says so; without one, whether chance shows as large an ECE."""
    if report.standings:
        after = report.standings["after"]
        return after is not None and after.verdict()[0] in (CALIBRATED, NEARLY)
    floor = report.floors.get("after", {}).get("ece")
    return floor is None or report.after["ece"] <= floor.high


def _spread(report: Report | None, folded: bool) -> str:
    """A warning of logits, as the checkpoint gives them, that lie too far apart for a server."""
    spread = report.spreads.get("after" if folded else "before") if report else None
    return spread.words(f"{_one_line(report.split)} {report.unit}") if report and spread else ""


def _harm(report: Report) -> str:
    """What got worse, and by how much."""
    if not report.changes:
        return ""
    if not report.notes:
        return "No metric got worse by more than noise."
    sizes = []
    for key, change in report.changes.items():
        if change.verdict == "a_is_better" and f"{ALL_METRICS[key].shown} got worse" in report.notes:
            ends = sorted(abs(end) for end in (change.low, change.high))
            sizes.append(
                f"{ALL_METRICS[key].shown} {with_interval(abs(change.difference), ends, ALL_METRICS[key].style)}"
            )
    return f"{report.notes} The differences, with {LEVEL:.0%} intervals: {', '.join(sizes)}."


def _loss(record: Mapping[str, Any]) -> str:
    """The loss that a record names, with its parameters."""
    if not record.get("loss"):
        return ""
    name, parameters = str(record["loss"]), record.get("loss_parameters")
    label = loss_label(name, parameters if isinstance(parameters, Mapping) else {})
    return f"`{_one_line(name)}` {_one_line(label.removeprefix(name))}".strip()


def _promised(record: Mapping[str, Any]) -> str:
    """What a record promises; nothing where something was put on top, which changes the confidences."""
    promise = None if record.get("then") else Promise.from_record(record.get("threshold"))
    return "" if promise is None else promise.words()


def _thresholds(record: Mapping[str, Any], names: Sequence[str]) -> str:
    """From where on to say each label of a head of sigmoids; nothing where something was put on top."""
    found = None if record.get("then") else Thresholds.from_record(record.get("thresholds"))
    return "" if found is None else found.words(names if len(names) == len(found.values) else None)


def _about_intervals(report: Report) -> str:
    whole = f", of whole {report.group}s" if report.group else ""
    legend = f" {report.legend[0].upper()}{report.legend[1:]}" if report.legend else ""
    return f"In brackets: {LEVEL:.0%} intervals{whole}.{legend} "


def _results(about: About, report: Report, noun: str) -> Iterator[EvalResult]:
    """One for each metric and moment."""
    for moment, values in (("before", report.before), ("after", report.after)):
        for key, value in values.items():
            if not math.isfinite(value):  # which is no number of JSON, and refused by the Hub
                continue
            metric = ALL_METRICS[key]
            details: dict[str, Any] = {"n_bins": report.n_bins} if metric.binned else {}
            interval = report.intervals.get(moment, {}).get(key, ())
            if interval and all(map(math.isfinite, interval)):
                details |= {"interval": [float(end) for end in interval], "level": LEVEL}
            floor = report.floors.get(moment, {}).get(key)
            if floor and all(map(math.isfinite, asdict(floor).values())):
                details["by_chance"] = asdict(floor)
            yield EvalResult(
                task_type=about.task or "other",
                dataset_type="other" if about.local_data else str(about.dataset),
                dataset_name=about.dataset_name,
                dataset_config=about.dataset_config,
                dataset_split=report.split,
                dataset_revision=about.dataset_revision,
                metric_type=key,
                metric_name=f"{metric.title} {moment} {noun}",
                metric_value=float(value),
                metric_args=details or None,
            )


def _one_line(text: str) -> str:
    """A name that cannot break out of its line, table cell or code span."""
    return re.sub(r"[\s|`<>\[\]]+", " ", text).strip()
