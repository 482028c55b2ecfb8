# Copyright 2026 The hf_focal authors. Licensed under the Apache License, Version 2.0.
"""Columns of numbers from Parquet, Arrow, safetensors, CSV or a data set, some rows at a time, whatever their size."""

from __future__ import annotations

import json
import re
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet
from numpy.typing import NDArray
from safetensors import SafetensorError, safe_open

from ..names import refuse_missing_folder, suggestion
from ..online import online


Rows = dict[str, NDArray[Any]]  # by column: a number a row, or as many for each
MOST_CLASSES = 1 << 20
_CSV_BLOCK = 1 << 24  # bytes; no line may be longer
RUN = "predictions.safetensors"  # what a run of ours keeps


class Table(ABC):
    """
    Columns of one file or data set.

    Attributes:
        name (`str`): What errors call it.
        columns (`Sequence[str]`): The names that it has.
        num_rows (`int`): Number of its rows.
    """

    name: str
    columns: Sequence[str]
    num_rows: int

    @abstractmethod
    def read(self, columns: Sequence[str], start: int, stop: int, size: int) -> Iterator[Rows]:
        """Some columns of the rows from `start` to `stop`, at most about `size` of them at a time."""


@contextmanager
def _named(name: str | Path) -> Iterator[None]:
    """Let errors of the libraries that read a file name it."""
    try:
        yield
    except (pa.ArrowException, SafetensorError, UnicodeError, RecursionError, OSError) as error:
        if getattr(error, "errno", None) is not None:  # of the file system, which names the file itself
            raise
        said = " ".join(str(error).split()) or type(error).__name__
        raise ValueError(f"{name} is damaged, or not what its name says: {said[:300].rstrip('.')}.") from error


class ParquetTable(Table):
    """A Parquet file, whose row groups are passed over where none of their rows is asked for."""

    def __init__(self, path: Path) -> None:
        self.name = str(path)
        with _named(path):
            # Not pre-buffered: the rows of a group may be more than fit into memory.
            self._file = pa.parquet.ParquetFile(path, pre_buffer=False, buffer_size=1 << 20)
        self.columns, self.num_rows = self._file.schema_arrow.names, self._file.metadata.num_rows

    def read(self, columns: Sequence[str], start: int, stop: int, size: int) -> Iterator[Rows]:
        first, metadata = 0, self._file.metadata
        for group in range(metadata.num_row_groups):
            last = first + metadata.row_group(group).num_rows
            if first < stop and last > start:
                self._check_lengths(metadata.row_group(group), columns)
                yield from self._group(group, columns, (max(start - first, 0), min(stop, last) - first), size)
            first = last

    def _check_lengths(self, group: Any, columns: Sequence[str]) -> None:
        """Refuse lists of unequal length before they are unpacked: they may be longer than all memory."""
        for place in range(group.num_columns):
            column = group.column(place)
            if column.path_in_schema.partition(".")[0] in columns and group.num_rows:
                each, rest = divmod(column.num_values, group.num_rows)
                if rest or each > MOST_CLASSES:
                    found = f"{column.num_values:,} numbers in {group.num_rows:,} rows"
                    raise ValueError(
                        f"{self.name}: every row of {column.path_in_schema.partition('.')[0]!r} must hold equally "
                        f"many numbers, at most {MOST_CLASSES:,}, got {found}."
                    )

    def _group(self, group: int, columns: Sequence[str], rows: tuple[int, int], size: int) -> Iterator[Rows]:
        place = 0
        with _named(self.name):
            for batch in self._file.iter_batches(size, row_groups=[group], columns=list(columns), use_threads=False):
                part = batch.slice(max(rows[0] - place, 0), max(rows[1] - max(place, rows[0]), 0))
                place += batch.num_rows
                if part.num_rows:
                    yield _arrays(part, columns, self.name)
                if place >= rows[1]:
                    return


class ArrowTable(Table):
    """An Arrow file, or a stream of `datasets`, mapped into memory."""

    def __init__(self, path: Path) -> None:
        self.name = str(path)
        with _named(path):
            self._source = pa.memory_map(str(path))
            try:
                self._file = pa.ipc.open_file(self._source)
                self._batches = None
            except pa.ArrowInvalid:
                self._source.seek(0)
                self._file = pa.ipc.open_stream(self._source)
                self._batches = list(self._file)  # views of the map, unless they are compressed
            self.columns = self._file.schema.names
            self.num_rows = sum(batch.num_rows for batch in self._all())

    def _all(self) -> Iterator[pa.RecordBatch]:
        if self._batches is not None:
            yield from self._batches
        else:
            for place in range(self._file.num_record_batches):
                yield self._file.get_batch(place)

    def read(self, columns: Sequence[str], start: int, stop: int, size: int) -> Iterator[Rows]:
        first = 0
        with _named(self.name):
            for batch in self._all():
                for place in range(max(start - first, 0), min(stop - first, batch.num_rows), size):
                    part = batch.slice(place, min(size, stop - first - place))
                    yield _arrays(part.select(list(columns)), columns, self.name)
                first += batch.num_rows


class DataTable(Table):
    """A data set of the library `datasets`."""

    def __init__(self, name: str, data: Any) -> None:
        self.name, self._data = name, data.with_format("arrow")
        self.columns, self.num_rows = data.column_names, len(data)

    def read(self, columns: Sequence[str], start: int, stop: int, size: int) -> Iterator[Rows]:
        data = self._data.select_columns(list(columns))
        with _named(self.name):
            for place in range(start, stop, size):
                yield _arrays(data[place : min(place + size, stop)], columns, self.name)


class SafetensorsTable(Table):
    """Tensors of equal length; those of a run of ours are called by their split."""

    def __init__(self, path: Path, split: str | None = None) -> None:
        self.name = str(path)
        with _named(path), safe_open(str(path), "np") as stored:
            shapes = {name: stored.get_slice(name).get_shape() for name in stored.keys()}
            self._half = {name for name in shapes if stored.get_slice(name).get_dtype() == "BF16"}
        self._keys = {name: name for name in shapes}
        parts = [name.removesuffix("_logits") for name in shapes if name.endswith("_logits")]
        if "logits" not in shapes and parts:
            part = split or ("test" if "test" in parts else parts[0])
            if part not in parts:
                raise ValueError(
                    f"{path} holds predictions of {', '.join(sorted(parts))}, none of {part!r} (--split)."
                )
            self._keys = {"logits": f"{part}_logits", "label": f"{part}_labels"}
        self.columns = [name for name, key in self._keys.items() if key in shapes]
        self._shapes = {name: shapes[self._keys[name]] for name in self.columns}
        self.num_rows = max((shape[0] for shape in self._shapes.values() if shape), default=0)

    def read(self, columns: Sequence[str], start: int, stop: int, size: int) -> Iterator[Rows]:
        for name in columns:
            shape = self._shapes[name]
            if len(shape) not in (1, 2) or shape[0] != self.num_rows:
                raise ValueError(
                    f"{self.name}: every tensor must have {self.num_rows:,} rows and one or two axes, got "
                    f"{tuple(shape)} for {name!r}."
                )
        wide = self._half.intersection(self._keys[name] for name in columns)
        with _named(self.name), safe_open(self.name, "pt" if wide else "np") as stored:  # NumPy has no bfloat16
            slices = {name: stored.get_slice(self._keys[name]) for name in columns}
            for place in range(start, stop, size):
                part = {name: one[place : min(place + size, stop)] for name, one in slices.items()}
                yield {name: np.asarray(one.float() if wide else one) for name, one in part.items()}


class CsvTable(Table):
    """A CSV (or TSV) file, compressed or not, which can be read but from its start."""

    def __init__(self, path: Path) -> None:
        self.name, self._path = str(path), path
        self._tab = path.name.lower().partition(".")[2].startswith("tsv")
        with _named(path):
            self._kinds = {field.name: field.type for field in self._open([]).schema}  # of what the first rows hold
        self.columns = list(self._kinds)

    def _open(self, columns: Sequence[str]) -> Any:
        types = {name: pa.float64() for name in columns if not self._is(name, pa.types.is_boolean, pa.types.is_string)}
        options = pa.csv.ConvertOptions(include_columns=list(columns), column_types=types)
        reading = pa.csv.ReadOptions(block_size=_CSV_BLOCK)
        parsing = pa.csv.ParseOptions(delimiter="\t" if self._tab else ",")
        return pa.csv.open_csv(self._path, reading, parsing, options)

    def _is(self, name: str, *kinds: Callable[[Any], bool]) -> bool:
        """Whether a column is of one of these kinds: of true and false, or of texts, which may be lists."""
        return any(kind(self._kinds[name]) for kind in kinds)

    @cached_property
    def num_rows(self) -> int:  # type: ignore[override]
        """Number of rows, for which all of the file has to be read."""
        with _named(self.name):
            return sum(batch.num_rows for batch in self._open(self.columns[:1]))

    def read(self, columns: Sequence[str], start: int, stop: int, size: int) -> Iterator[Rows]:
        first = 0
        with _named(self.name):
            for batch in self._open(columns):
                last = first + batch.num_rows
                if last > start:
                    part = batch.slice(max(start - first, 0), min(stop, last) - max(start, first))
                    yield {name: self._array(part, name, max(start, first)) for name in columns}
                first = last
                if first >= stop:
                    return

    def _array(self, batch: pa.RecordBatch, name: str, row: int) -> NDArray[Any]:
        if not self._is(name, pa.types.is_string):
            return _array(batch.column(name), f"{self.name}: {name!r}")
        try:
            values = json.loads(f"[{','.join(batch.column(name).to_pylist())}]")
            array = np.asarray(values, dtype=np.float64)
        except (ValueError, TypeError) as error:
            raise ValueError(
                f"{self.name}: {name!r} must hold numbers, or lists of equally many such as [0.9, 0.1], got "
                f"{str(batch.column(name)[0])[:40]!r} from row {row:,} on."
            ) from error
        return array


def _arrays(batch: Any, columns: Sequence[str], name: str) -> Rows:
    return {column: _array(batch.column(column), f"{name}: {column!r}") for column in columns}


def _array(column: Any, name: str) -> NDArray[Any]:
    """A column of numbers, or of lists of equally many numbers, as an array; anything else is refused."""
    if isinstance(column, pa.ChunkedArray):
        column = column.combine_chunks() if column.num_chunks != 1 else column.chunk(0)
        column = pa.concat_arrays(column.chunks) if isinstance(column, pa.ChunkedArray) else column
    if isinstance(column, pa.ExtensionArray):
        column = column.storage
    if pa.types.is_dictionary(column.type):
        column = column.dictionary_decode()
    if column.null_count:
        row = int(np.argmax(np.asarray(column.is_null())))
        raise ValueError(
            f"{name} has {column.null_count:,} rows without a value among some, such as the one of index {row:,}."
        )
    if (
        pa.types.is_list(column.type)
        or pa.types.is_large_list(column.type)
        or pa.types.is_fixed_size_list(column.type)
    ):
        values = _array(column.flatten(), name)
        width, rest = divmod(len(values), max(len(column), 1))
        equal = pa.types.is_fixed_size_list(column.type) or np.all(np.diff(np.asarray(column.offsets)) == width)
        if rest or not equal or values.ndim != 1:
            raise ValueError(f"{name} must hold equally many numbers in every row.")
        return values.reshape(len(column), width)
    if pa.types.is_decimal(column.type):
        column = column.cast(pa.float64())
    if not (pa.types.is_floating(column.type) or pa.types.is_integer(column.type) or pa.types.is_boolean(column.type)):
        raise ValueError(f"{name} must hold numbers, or lists of numbers, got {column.type}.")
    return column.to_numpy(zero_copy_only=False)


# ---- Which files ----------------------------------------------------------------------------------------------------

_READERS: dict[str, Callable[[Path], Table]] = {
    ".parquet": ParquetTable,
    ".arrow": ArrowTable,
    ".feather": ArrowTable,
    ".csv": CsvTable,
    ".tsv": CsvTable,
}
_SUFFIXES = (*_READERS, ".safetensors")
_COMPRESSED = (".gz", ".bz2", ".zst", ".lz4", ".br")
_SHARD = re.compile(r"(.+)-\d{5}-of-\d{5}")


def open_tables(
    path: str, split: str | None = None, config: str | None = None, revision: str | None = None
) -> list[Table]:
    """
    The tables of a file, of a folder of shards in the order of their names (and numbers), of what `datasets` saved to
    disk, or of a data set on the Hub.

    Raises:
        FileNotFoundError: If there is nothing.
        ValueError: If a file is damaged or of another kind, or there are several splits and none is asked for.
    """
    where = Path(path).expanduser()
    if where.is_dir():
        if (where / "dataset_dict.json").is_file() or (where / "state.json").is_file():
            return [_saved(where, split)]
        files = _shards(where, split)
    elif where.exists():
        files = [where]
    else:
        refuse_missing_folder(path)
        return [_of_hub(path, split, config, revision)]
    return [_open(file, split) for file in files]


def _open(file: Path, split: str | None) -> Table:
    suffix = _suffix(file)
    if file.stat().st_size == 0:
        raise ValueError(f"{file} is empty.")
    if suffix == ".safetensors":
        return SafetensorsTable(file, split)
    if suffix not in _READERS:
        raise ValueError(f"{file} is of no known kind: predictions are read from {', '.join(_SUFFIXES)}.")
    return _READERS[suffix](file)


def _suffix(file: Path) -> str:
    """That of a CSV file may have that of its compression behind it."""
    suffix = file.suffix.lower()
    return Path(file.stem).suffix.lower() if suffix in _COMPRESSED else suffix


def _shards(folder: Path, split: str | None) -> list[Path]:
    if (folder / RUN).is_file():
        return [folder / RUN]
    found = [file for file in folder.rglob("*") if file.is_file() and _suffix(file) in _SUFFIXES]
    found = [file for file in found if not any(part.startswith((".", "_")) for part in file.relative_to(folder).parts)]
    if not found:
        raise ValueError(f"{folder} holds no predictions: no file in it ends in {', '.join(_SUFFIXES)}.")
    if len(kinds := {_suffix(file) for file in found}) > 1:
        raise ValueError(f"{folder} holds files of several kinds ({', '.join(sorted(kinds))}): give one of them.")
    named = {file: shard[1] for file in found if (shard := _SHARD.match(file.name))}
    if split is not None and split in named.values():
        found = [file for file in found if named.get(file) == split]
    elif len(splits := {*named.values()}) > 1:
        raise ValueError(f"{folder} holds shards of {', '.join(sorted(splits))}: choose by --split.")
    return sorted(
        found, key=lambda file: [int(part) if part.isdigit() else part for part in re.split(r"(\d+)", str(file))]
    )


def _saved(folder: Path, split: str | None) -> Table:
    """What `save_to_disk` wrote."""
    from datasets import load_from_disk

    try:
        data = load_from_disk(str(folder))
    except (ValueError, KeyError, TypeError, pa.ArrowException) as error:
        raise ValueError(f"The saved data set {folder} is damaged: {error}.") from error
    return _of_splits(str(folder), data, split)


@online
def _of_hub(name: str, split: str | None, config: str | None, revision: str | None) -> Table:
    from datasets import load_dataset

    try:
        data = load_dataset(name, config, revision=revision)
    except OSError as error:
        raise FileNotFoundError(
            f"There is no such file or folder: {name}; nor can such a data set be had from the Hub: {error}"
        ) from error
    return _of_splits(name, data, split)


def _of_splits(name: str, data: Any, split: str | None) -> Table:
    if hasattr(data, "keys"):
        if split is None and len(data) > 1:
            raise ValueError(f"{name} has the splits {', '.join(data)}: choose by --split.")
        chosen = split or next(iter(data))
        if chosen not in data:
            raise ValueError(f"{name} has the splits {', '.join(data)}, not {chosen!r}.{suggestion(chosen, data)}")
        data = data[chosen]
    return DataTable(name, data)
