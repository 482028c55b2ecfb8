# Copyright 2026 The hf_focal authors. Licensed under the Apache License, Version 2.0.
"""
Memory and time of `hf-focal evaluate-predictions` against the number of rows: pairs of (confidence, correct), and
logits of 1,000 classes, in Parquet.

    python benchmarks/predictions.py --output benchmarks/results/predictions.md

Each is a fresh process; time is its processor time, memory the most that it ever held. The largest file has 4 GB, and
is removed at the end.
"""

import argparse
import json
import os
import platform
import resource
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq


CODE = "import sys; from hf_focal.cli.main import main; main()"


def write(path, rows, classes):
    """Rows of an over-confident model, of random logits; of one class the pairs alone."""
    generator, size = np.random.default_rng(0), 1_000_000 // max(classes, 1)
    writer = None
    for start in range(0, rows, size):
        count = min(size, rows - start)
        if classes == 1:
            confidence = generator.beta(6, 2, count).astype(np.float32)
            table = pa.table({"confidence": confidence, "correct": generator.random(count) < confidence**1.2})
        else:
            logits = generator.normal(size=(count, classes)).astype(np.float32)
            label = generator.integers(classes, size=count)
            logits[np.arange(count), label] += 8 * generator.random(count).astype(np.float32)
            values = pa.FixedSizeListArray.from_arrays(pa.array(logits.ravel()), classes)
            table = pa.table({"logits": values, "label": label})
        if writer is None:
            writer = pq.ParquetWriter(path, table.schema, compression="none", use_dictionary=False)
        writer.write_table(table)
    writer.close()


def measure(path, folder):
    """Processor seconds, and megabytes."""
    command = [sys.executable, "-c", CODE, "evaluate-predictions", str(path), "--output_dir", str(folder)]
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    limited = (
        "import resource, subprocess, sys; code = subprocess.run(sys.argv[1:]).returncode; "
        "print('used', resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss); sys.exit(code)"
    )
    done = subprocess.run([sys.executable, "-c", limited, *command], capture_output=True, text=True)
    if done.returncode:
        raise RuntimeError(done.stderr)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    seconds = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    return seconds, int(done.stdout.rsplit("used ", 1)[1]) / 1024


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pairs", type=float, nargs="*", default=[1e6, 1e7, 1e8])
    parser.add_argument("--rows", type=float, nargs="*", default=[1e4, 1e5, 1e6])
    parser.add_argument("--classes", type=int, default=1000)
    parser.add_argument("--output", type=Path)
    options = parser.parse_args()
    lines = [
        f"`python benchmarks/predictions.py`; Python {platform.python_version()}, NumPy {np.__version__}, pyarrow "
        f"{pa.__version__}, {os.cpu_count()} cores that other work shared.",
        "",
        "| predictions | file | processor time | a row | peak memory | temperature |",
        "| --- | ---: | ---: | ---: | ---: | ---: |",
    ]
    print("\n".join(lines))
    with tempfile.TemporaryDirectory() as folder:
        for classes, sizes in ((1, options.pairs), (options.classes, options.rows)):
            for rows in map(int, sizes):
                path = Path(folder) / "predictions.parquet"
                write(path, rows, classes)
                seconds, memory = measure(path, Path(folder) / "out")
                found = json.loads((Path(folder) / "out" / "evaluation.json").read_text())["predictions"][0]
                kind = "(confidence, correct)" if classes == 1 else f"x {classes:,} logits"
                temperature = "-" if found["temperature"] is None else f"{found['temperature']:.4f}"
                lines.append(
                    f"| {rows:,} {kind} | {path.stat().st_size / 1e6:,.0f} MB | {seconds:,.1f} s | "
                    f"{seconds / rows * 1e6:.3g} µs | {memory:,.0f} MB | {temperature} |"
                )
                print(lines[-1], flush=True)
                path.unlink()
    if options.output:
        options.output.write_text("\n".join(lines) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
