# Copyright 2026 The hf_focal authors. Licensed under the Apache License, Version 2.0.
"""What is built, without a network, holds all that the package is, and works where there is no checkout."""

import os
import shutil
import subprocess
import sys
import tarfile
import zipfile

import pytest
from conftest import ROOT


pytest.importorskip("setuptools", minversion="68", reason="a build backend, which the tests do not install")
BUILD = """
import sys
from setuptools import build_meta
print("built", getattr(build_meta, f"build_{sys.argv[1]}")(sys.argv[2]))
"""


def built(kind, source, target):
    command = [sys.executable, "-c", BUILD, kind, str(target)]
    result = subprocess.run(command, capture_output=True, text=True, cwd=source)
    assert result.returncode == 0, result.stderr[-3000:]
    return target / result.stdout.splitlines()[-1].removeprefix("built ")


def contents(wheel):
    with zipfile.ZipFile(wheel) as archive:
        return {name: archive.read(name) for name in archive.namelist()}


@pytest.fixture(scope="module")
def built_files(tmp_path_factory):
    """The source distribution, and the wheel that is built from it in turn."""
    folder = tmp_path_factory.mktemp("built")
    left_out = shutil.ignore_patterns("__pycache__", "*.egg-info", "build", "dist", "outputs", ".*")
    shutil.copytree(ROOT, folder / "checkout", ignore=left_out)
    sdist = built("sdist", folder / "checkout", folder)
    with tarfile.open(sdist) as archive:
        archive.extractall(folder / "unpacked", filter="data")
    (source,) = (folder / "unpacked").iterdir()
    return source, built("wheel", source, folder)


def files(folder, left_out=("__pycache__",)):
    paths = (path.relative_to(folder) for path in folder.rglob("*") if path.is_file())
    return {path.as_posix(): (folder / path).read_bytes() for path in paths if not {*left_out} & {*path.parts}}


def test_the_wheel_holds_the_package_and_the_modules_for_evaluate(built_files):
    held = contents(built_files[1])
    modules = {f"hf_focal/evaluate_modules/{name}": data for name, data in files(ROOT / "metrics").items()}
    package = {f"hf_focal/{name}": data for name, data in files(ROOT / "hf_focal").items()}
    assert {name: data for name, data in held.items() if ".dist-info/" not in name} == package | modules
    assert "hf_focal/cli/help/run_image.txt" in package and "hf_focal/results/model_card_template.md" in package
    (entry,) = (data for name, data in held.items() if name.endswith("/entry_points.txt"))
    assert entry.decode().split() == "[console_scripts] hf-focal = hf_focal.cli.main:main".split()
    assert any(name.endswith("/LICENSE") for name in held)


def test_the_source_distribution_holds_what_a_checkout_does(built_files):
    held = files(built_files[0])
    for folder in ("hf_focal", "metrics", "scripts", "tests", "configs", "docs", "benchmarks"):
        assert {f"{folder}/{name}" for name in files(ROOT / folder)} <= {*held}
    assert {"README.md", "CHANGELOG.md", "LICENSE", "CITATION.cff", "SECURITY.md", "Makefile"} <= {*held}


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["sdist", "wheel"])
def test_what_pip_installs_of_it_does_the_main_job_in_an_empty_folder(built_files, tmp_path, kind):
    """With the dependencies that are here, and nothing of the checkout."""
    pytest.importorskip("pip", reason="an installer, which the tests do not install")
    (sdist,) = built_files[1].parent.glob("*.tar.gz")
    target, empty = tmp_path / "installed", tmp_path / "empty"
    offline = ["--no-index", "--no-deps", "--no-build-isolation", "--target", str(target)]
    what = str(built_files[1] if kind == "wheel" else sdist)
    command = [sys.executable, "-m", "pip", "install", "-q", *offline, what]
    result = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path)
    assert result.returncode == 0, result.stderr[-3000:]
    empty.mkdir()
    flags = ["--max_steps", "2", "--max_train_samples", "64", "--max_eval_samples", "240", "--use_cpu", "true"]
    command = [str(target / "bin" / "hf-focal"), "run-image", "--output_dir", "out", *flags]
    environment = {**os.environ, "PYTHONPATH": str(target), "HF_HUB_OFFLINE": "1"}
    result = subprocess.run(command, capture_output=True, text=True, cwd=empty, env=environment)
    assert result.returncode == 0, result.stderr[-3000:]
    left = {path.name for path in (empty / "out").iterdir()}
    assert {"model.safetensors", "config.json", "README.md", "all_results.json"} <= left
    code = "import hf_focal; print(hf_focal.__file__, hf_focal.from_pretrained('out').config.calibration)"
    command = [sys.executable, "-c", code]
    result = subprocess.run(command, capture_output=True, text=True, cwd=empty, env=environment)
    assert result.returncode == 0 and result.stdout.startswith(str(target)), result.stderr[-3000:]


def test_it_works_in_an_empty_folder(built_files, tmp_path):
    with zipfile.ZipFile(built_files[1]) as archive:
        archive.extractall(tmp_path / "installed")
    (tmp_path / "empty").mkdir()
    environment = {**os.environ, "PYTHONPATH": str(tmp_path / "installed")}
    code = "import sys, hf_focal.cli.main as own; sys.argv[0] = 'hf-focal'; own.main(); print(own.__file__)"
    for words, start in ((["compare", "--help"], "usage: hf-focal compare RUN"), ([], "usage: hf-focal COMMAND")):
        command = [sys.executable, "-c", code, *words]
        result = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path / "empty", env=environment)
        assert result.returncode == 0 and result.stdout.startswith(start), result.stderr
    assert result.stdout.splitlines()[-1].startswith(str(tmp_path / "installed"))
