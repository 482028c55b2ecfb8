# Copyright 2026 The hf_focal authors. Licensed under the Apache License, Version 2.0.
"""The Space of a metric: two boxes of JSON in, the value out."""

from __future__ import annotations

import json
from pathlib import Path

import evaluate
from evaluate.utils.gradio import parse_readme


def launch(module: str | Path) -> None:
    """
    Show a metric of `evaluate` in a browser, with the README beside it.

    Args:
        module (`str` or `Path`):
            The file of the metric.
    """
    import gradio

    metric = evaluate.load(str(module))

    def compute(predictions: str, references: str) -> dict[str, float]:
        return metric.compute(predictions=json.loads(predictions), references=json.loads(references))

    # Not launch_gradio_widget of evaluate: it needs gradio 3, which does not run beside current datasets.
    with gradio.Blocks(title=f"Metric: {metric.name}") as space:
        gradio.Interface(
            fn=compute,
            inputs=[
                gradio.Textbox(
                    label="predictions", value="[[0.9, 0.1, 0.0], [0.6, 0.3, 0.1], [0.2, 0.7, 0.1], [0.1, 0.1, 0.8]]"
                ),
                gradio.Textbox(label="references", value="[0, 1, 1, 2]"),
            ],
            outputs="text",
            title=f"Metric: {metric.name}",
            flagging_mode="never",
        )
        # Without delimiters gradio shows formulas within a line as they are typed.
        gradio.Markdown(
            parse_readme(Path(module).with_name("README.md")),
            latex_delimiters=[
                {"left": "$$", "right": "$$", "display": True},
                {"left": "$", "right": "$", "display": False},
            ],
        )
    space.launch(show_error=True)
