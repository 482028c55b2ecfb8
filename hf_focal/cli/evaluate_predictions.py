# Copyright 2026 The hf_focal authors. Licensed under the Apache License, Version 2.0.
"""
Measure predictions that you saved, however many: metrics with intervals, what chance alone would show, a reliability
diagram, the best temperature, and which of several models is better.

  hf-focal evaluate-predictions predictions.parquet
  hf-focal evaluate-predictions outputs/a outputs/b --output_dir both
  hf-focal evaluate-predictions shards/ --confidence_column_name score

A PATH is a file or a folder of shards in Parquet, Arrow, safetensors or CSV, a run of ours, or a data set, saved to
disk or on the Hub. It holds `logits` or `probabilities` (lists, or columns such as `logits_0`) with `label`; the
largest ones, `topk_probabilities`, with `topk_classes` and `label`; or `confidence` and `correct`.
Of a sigmoid head `label` holds 0 or 1 for each label, -100 where it is not known, as lists or columns, too.

Rows are read some at a time: a billion of them take no more memory than a million. With several processes
(`accelerate launch -m hf_focal evaluate-predictions` and the same flags) each reads its share. All metrics are exact,
but for AdaECE of more than four million rows, whose error is told. evaluation.json, .txt and .png are written.
"""

if __name__ == "__main__":  # before the imports: they take seconds, and --help needs none of them
    from hf_focal.cli.commands import start

    start("evaluate-predictions")


import json
import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from .script import Parser


NAME = "evaluation"
_COLUMNS = {
    "logits": "logits", "probabilities": "probabilities", "label": "labels; rows with -100 are left out",
    "topk_probabilities": "the largest probabilities", "topk_classes": "the classes that have them",
    "confidence": "how sure each answer was", "correct": "whether it was right",
}  # fmt: skip


def main() -> None:
    """What the command does."""
    parser = Parser(description=__doc__)
    parser.add_argument("paths", nargs="+", metavar="PATH", help="Predictions of a model; of several, in turn.")
    parser.add_argument("--output_dir", type=Path, default=Path(NAME), help="Where to save.")
    parser.add_argument("--n_bins", type=int, default=15, help="Number of bins.")
    parser.add_argument("--no_temperature", action="store_true", help="Look for none: a third of the time.")
    parser.add_argument("--split", help="Of data sets, and of folders with shards of several.")
    parser.add_argument("--dataset_config_name", help="Configuration of a data set on the Hub.")
    parser.add_argument("--dataset_revision", help="Revision of a data set on the Hub.")
    for column, about in _COLUMNS.items():
        parser.add_argument(f"--{column}_column_name", help=f"Column of {about}. Unset: {column}.")
    options = parser.parse_args()
    from ..results.evaluate_files import Share, evaluate_saved  # here, since they take a second
    from ..results.evaluation import diagram_of, text_of
    from ..results.prediction_files import SavedPredictions
    from ..results.table_files import open_tables
    from .terminal import columns, show

    share = _share(Share)
    check_writable(options.output_dir)
    given = {column: getattr(options, f"{column}_column_name") for column in _COLUMNS}
    names = {column: name for column, name in given.items() if name is not None}
    where = options.split, options.dataset_config_name, options.dataset_revision
    saved = {
        name: SavedPredictions(open_tables(path, *where), names) for name, path in names_of(options.paths).items()
    }
    models, compared = evaluate_saved(saved, options.n_bins, not options.no_temperature, share)
    if share.rank:
        return
    text, plain = text_of(models, compared, columns()), text_of(models, compared)
    record = {
        "n_bins": options.n_bins,
        "predictions": [
            {"path": path, **one.to_record()} for path, one in zip(options.paths, models, strict=True)
        ],
        "comparisons": [one.to_record() for one in compared],
    }  # fmt: skip
    write(options.output_dir, f"{NAME}.png", diagram_of(models).savefig)
    for suffix, content in (("txt", plain), ("json", json.dumps(record, indent=2))):
        write(options.output_dir, f"{NAME}.{suffix}", _writer(content))
    show(f"{text}\n\nSaved to {options.output_dir}")


def _writer(content: str) -> Callable[[Path], Any]:
    return lambda path: path.write_text(f"{content}\n", encoding="utf-8")


def names_of(paths: Sequence[str]) -> Mapping[str, str]:
    """Paths by the shortest names that tell them apart."""
    for path in paths:
        if paths.count(path) > 1:
            raise ValueError(f"{path} is given twice.")
    for depth in range(1, 1 + max(len(Path(path).parts) for path in paths)):
        names = ["/".join(Path(path).parts[-depth:]) for path in paths]
        if len({*names}) == len(names):
            return dict(zip(names, paths, strict=True))
    return {path: path for path in paths}


def check_writable(folder: Path) -> None:
    """Make the folder, or refuse it before hours of work."""
    if folder.exists() and not folder.is_dir():
        raise NotADirectoryError(f"--output_dir {folder} is a file, not a folder.")
    folder.mkdir(parents=True, exist_ok=True)
    if not os.access(folder, os.W_OK):
        raise PermissionError(f"--output_dir {folder} cannot be written: no permission.")


def write(folder: Path, name: str, save: Callable[[Path], Any]) -> None:
    """Replace a file as a whole."""
    beside = folder / f".{os.getpid()}-{name}"
    try:
        save(beside)
        os.replace(beside, folder / name)
    finally:
        beside.unlink(missing_ok=True)


def _share(kind: Callable[..., Any]) -> Any:
    """The share of this process, where `accelerate launch` or `torchrun` started several."""
    if int(os.environ.get("WORLD_SIZE", "1")) < 2:
        return kind()
    from datetime import timedelta

    from accelerate import PartialState
    from accelerate.utils import gather_object

    state = PartialState(cpu=True, timeout=timedelta(days=7))  # one may have far more to read than another
    return kind(state.process_index, state.num_processes, lambda value: gather_object([value]))
