# Copyright 2026 The hf_focal authors. Licensed under the Apache License, Version 2.0.
"""
What the modules of `metrics/` share: a function of `hf_focal.metrics` as a metric of `evaluate`, and its Space.

A module imports this one, not the classes: `evaluate.load` takes the first class of metrics that it finds in it.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any, ClassVar

import datasets
import evaluate
from evaluate.naming import camelcase_to_snakecase
from numpy.typing import NDArray

from ..arrays import leave_out_masked, to_numpy
from ..names import suggestion


_PAPER = """
@inproceedings{mukhoti2020calibrating,
  title={Calibrating Deep Neural Networks using Focal Loss},
  author={Mukhoti, Jishnu and Kulharia, Viveka and Sanyal, Amartya and Golodetz, Stuart and Torr, Philip H. S. and
          Dokania, Puneet K.},
  booktitle={Advances in Neural Information Processing Systems},
  volume={33},
  year={2020}
}
"""
_INPUTS = """
Args:
    predictions (`list` of `list` of `float`, or array or tensor of shape `(num_samples, num_labels)`):
        Probabilities; each row sums to 1.
    references (`list` of `int`, or array or tensor of shape `(num_samples,)`):
        Class indices in `[0, num_labels)`.
{bins}
Returns:
    `dict` with the key `{name}` (`float`): in `{bounds}`; lower is better.

Example:

    >>> import evaluate, hf_focal
    >>> {name} = evaluate.load(hf_focal.metric_path("{name}"))
    >>> probabilities = [[0.9, 0.1, 0.0], [0.6, 0.3, 0.1], [0.2, 0.7, 0.1], [0.1, 0.1, 0.8]]
    >>> labels = [0, 1, 1, 2]
    >>> results = {name}.compute(predictions=probabilities, references=labels{options})
    >>> print(round(results["{name}"], 4))
    {result}
"""
_BINS = "    n_bins (`int`, *optional*, defaults to `15`):\n        Number of bins.\n"


class CalibrationMetric(evaluate.Metric):
    """A metric without bins. A module sets the attributes; its name is that of the class."""

    function: ClassVar[Callable[..., float]]  # of probabilities and labels, as a staticmethod
    about: ClassVar[str]
    cite: ClassVar[str]  # what to cite beside the paper
    bounds: ClassVar[str] = "[0, 1]"
    result: ClassVar[float]  # of the example
    options: ClassVar[str] = ""
    bins: ClassVar[str] = ""
    inputs: ClassVar[str]  # their description, which follows

    def __init_subclass__(cls) -> None:
        if hasattr(cls, "function"):
            details = {name: getattr(cls, name) for name in ("bins", "bounds", "options", "result")}
            cls.inputs = _INPUTS.format(name=camelcase_to_snakecase(cls.__name__), **details)
            cls.__doc__ = cls.about + cls.inputs

    def _info(self) -> evaluate.MetricInfo:
        # float64 keeps every digit; as float64 a label that is no whole number is reported, as int64 it would be cut.
        number = datasets.Value("float64")
        return evaluate.MetricInfo(
            description=self.about,
            citation=self.cite + _PAPER,
            inputs_description=self.inputs,
            features=datasets.Features({"predictions": datasets.Sequence(number), "references": number}),
            reference_urls=["https://arxiv.org/abs/2002.09437"],
        )

    def compute(self, *, predictions: Any = None, references: Any = None, **options: Any) -> dict[str, float] | None:
        """
        As of any metric of `evaluate`, and of whatever the function takes. What is given all at once goes straight to
        the function: as rows of Arrow it would take some hundred times longer.
        """
        given = predictions is not None or references is not None
        if given and self.num_process == 1 and self.writer is None:
            predictions, references = _plain(predictions, references)
            if predictions.ndim == 2 and references.shape == predictions.shape[:1]:
                return self._compute(predictions, references, **options)
        return super().compute(predictions=predictions, references=references, **options)

    def add_batch(self, *, predictions: Any = None, references: Any = None, **others: Any) -> None:
        """As of any metric of `evaluate`, of whatever the function takes; what is masked is left out."""
        predictions, references = _plain(predictions, references)
        if predictions.ndim < 2 or len(predictions):  # of no samples Arrow finds no type
            super().add_batch(predictions=predictions, references=references, **others)

    def add(self, *, prediction: Any = None, reference: Any = None, **others: Any) -> None:
        """One sample, as [`add_batch`] takes several."""
        sample = {"predictions": prediction, "references": reference, **others}  # `evaluate.combine` has these names
        self.add_batch(**{name: [value] for name, value in sample.items()})

    def _compute(self, predictions: Any, references: Any) -> dict[str, float]:
        return {self.name: self.function(predictions, references)}


def _plain(predictions: Any, references: Any) -> tuple[NDArray[Any], NDArray[Any]]:
    """Both as arrays, without rows that are masked."""
    if predictions is None or references is None:
        raise ValueError("predictions and references belong together, got one of them alone.")
    predictions, references = leave_out_masked(predictions=predictions, references=references)
    return to_numpy("predictions", predictions), to_numpy("references", references)


class BinnedMetric(CalibrationMetric):
    """A metric with bins."""

    bins = _BINS

    def _compute(self, predictions: Any, references: Any, n_bins: int = 15) -> dict[str, float]:
        return {self.name: self.function(predictions, references, n_bins)}


def metric_path(name: str) -> str:
    """
    Where a module of `metrics/` is, for `evaluate.load` in any folder.

    Args:
        name (`str`):
            One of `adaptive_ece`, `classwise_ece`, `ece`, `mce`, `multiclass_brier` and `nll`.

    Returns:
        `str`: Its folder, in the installed package or in the checkout that the package is imported from.

    Raises:
        ValueError: If there is no module of that name.

    Example:
    >>> evaluate.load(metric_path("ece")).compute(predictions=[[0.75, 0.25]], references=[0])
    {'ece': 0.25}
    """
    package = Path(__file__).parents[1]
    folder = package / "evaluate_modules"  # of a wheel, which has a copy of metrics/ there
    folder = folder if folder.is_dir() else package.parent / "metrics"
    names = sorted(path.parent.name for path in folder.glob("*/*.py") if path.stem == path.parent.name)
    if not names:
        raise FileNotFoundError(f"The modules for evaluate are missing from {package}: install hf_focal once more.")
    if name not in names:
        known = f"only {', '.join(names)}.{suggestion(name, names, cutoff=0.4)}"
        raise ValueError(f"There is no module {name!r} for evaluate, {known}")
    return str(folder / name)


def launch(app: str) -> None:
    """Show the metric beside an `app.py` in a browser: two boxes of JSON in, the value out, and the README."""
    import gradio
    from evaluate.utils.gradio import parse_readme

    (module,) = (path for path in Path(app).parent.glob("*.py") if path.name != Path(app).name)
    metric = evaluate.load(str(module))

    def compute(predictions: str, references: str) -> dict[str, float]:
        return metric.compute(predictions=json.loads(predictions), references=json.loads(references))

    rows = "[[0.9, 0.1, 0.0], [0.6, 0.3, 0.1], [0.2, 0.7, 0.1], [0.1, 0.1, 0.8]]"
    # Not launch_gradio_widget of evaluate: it needs gradio 3, which does not run beside current datasets.
    with gradio.Blocks(title=f"Metric: {metric.name}") as space:
        examples = {"predictions": rows, "references": "[0, 1, 1, 2]"}
        inputs = [gradio.Textbox(label=label, value=value) for label, value in examples.items()]
        options = {"title": f"Metric: {metric.name}", "flagging_mode": "never"}
        gradio.Interface(fn=compute, inputs=inputs, outputs="text", **options)
        # Without delimiters gradio shows formulas within a line as they are typed.
        delimiters = [{"left": sign, "right": sign, "display": sign == "$$"} for sign in ("$$", "$")]
        gradio.Markdown(parse_readme(module.with_name("README.md")), latex_delimiters=delimiters)
    space.launch(show_error=True)
