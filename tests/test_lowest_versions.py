# Copyright 2026 The hf_focal authors. Licensed under the Apache License, Version 2.0.
"""The bounds of setup.py: each has one, and what they allow passes the fast tests."""

import os
import subprocess
import sys

import lowest_versions
import pytest
from conftest import ROOT


pytest.importorskip("setuptools", minversion="68", reason="a build backend, which the tests do not install")


def test_every_dependency_has_a_lowest_version_of_which_this_environment_is_not_short():
    bounds = lowest_versions.bounds()
    assert {"torch", "transformers", "datasets", "numpy", "pytest"} <= {*bounds}
    higher = lowest_versions.above(sys.executable)  # prints every version, and so fails where one is missing
    assert all(entry.split(" for ")[1] == f">={bounds[entry.split()[0]]}" for entry in higher)


@pytest.mark.parametrize(
    ("version", "low", "higher"),
    [("2.6.0+cu124", "2.6", False), ("4.66.3", "4.66", True), ("3.1.0", "3.1", False), ("10.0", "9.9.9", True)],
)
def test_a_version_above_its_bound_is_seen(version, low, higher):
    assert (lowest_versions.number(version) > lowest_versions.number(low)) is higher


@pytest.mark.slow
def test_the_fast_tests_pass_with_the_lowest_versions(tmp_path):
    """Minutes of installing, and all fast tests; needs the index of packages, and 7 GB."""
    command = [sys.executable, str(ROOT / "tests" / "lowest_versions.py"), "-q"]
    result = subprocess.run(command, capture_output=True, text=True, env={**os.environ, "TMPDIR": str(tmp_path)})
    assert result.returncode == 0, result.stdout[-5000:] + result.stderr[-3000:]
