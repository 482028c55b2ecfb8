# Copyright 2026 The hf_focal authors. Licensed under the Apache License, Version 2.0.
"""How many processes read data, where nobody says it."""

import logging
import os
from types import SimpleNamespace

import pytest

from hf_focal.cli.arguments import RunArguments, parse_arguments
from hf_focal.cli.run import use_workers


@pytest.mark.parametrize(
    ("device", "cores", "processes", "expected"),
    [("cpu", 2, 1, 1), ("cpu", 64, 1, 8), ("cpu", 1, 1, 0), ("cuda", 16, 4, 3), ("cuda", 2, 2, 1), ("cuda", 96, 2, 8)],
)
def test_as_many_workers_read_as_pay_and_it_is_said_once(device, cores, processes, expected, monkeypatch, caplog):
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: set(range(cores)), raising=False)
    monkeypatch.setenv("LOCAL_WORLD_SIZE", str(processes))
    args = SimpleNamespace(workers_chosen=False, dataloader_num_workers=0, device=SimpleNamespace(type=device))
    with caplog.at_level(logging.INFO):
        use_workers(args, 1000)
    assert args.dataloader_num_workers == expected
    (message,) = [record.getMessage() for record in caplog.records]
    assert message == f"Processes that decode images: {max(1, expected)} (--dataloader_num_workers)."


def test_no_workers_start_for_little_or_what_is_kept_or_against_the_users_word(tmp_path, caplog):
    (unset,) = parse_arguments([RunArguments], ["--output_dir", str(tmp_path), "--use_cpu"])
    chosen = ["--dataloader_num_workers", "0"]
    (none,) = parse_arguments([RunArguments], ["--output_dir", str(tmp_path), "--use_cpu", *chosen])
    assert unset.dataloader_num_workers == none.dataloader_num_workers == 0
    with caplog.at_level(logging.INFO):
        use_workers(unset, 999)
        use_workers(none, 10**6)
    assert unset.dataloader_num_workers == none.dataloader_num_workers == 0 and not caplog.records
