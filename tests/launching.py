# Copyright 2026 The hf_focal authors. Licensed under the Apache License, Version 2.0.
"""Scripts as a user starts them, and the snippets of a Markdown file."""

import os
import re
import runpy
import subprocess
import sys

from conftest import ROOT

from hf_focal.cli.commands import COMMANDS
from hf_focal.results.lock import release_all


def launch(*arguments, processes=1, check=True, cwd=ROOT, sharded=False):
    """Run a script by `accelerate launch`; `sharded` leaves it to a `--config_file` how processes share the work."""
    environment = {**os.environ, "HF_HUB_OFFLINE": "1", "OMP_WAIT_POLICY": "PASSIVE", "GOMP_SPINCOUNT": "0"}
    options = ["--num_processes", str(processes), "--num_machines", "1", "--mixed_precision", "no"]
    options += ["--dynamo_backend", "no"]
    if sharded:
        options += ["--main_process_port", "0"]
    elif processes > 1:
        environment["ACCELERATE_USE_CPU"] = "true"
        options += ["--multi_gpu"]
    command = [sys.executable, "-m", "accelerate.commands.launch", *options, *arguments]
    result = subprocess.run(command, capture_output=True, text=True, cwd=cwd, env=environment)
    assert not check or result.returncode == 0, result.stdout[-2000:] + result.stderr[-4000:]
    return result


README, PAGES = ROOT / "README.md", sorted((ROOT / "docs").glob("*.md"))


_WITHOUT_LAUNCHER = ("compare", "compare-calibrators", "plot-dynamics", "linear-model")


def as_scripts(text):
    """A text in which the commands of `hf-focal` are those of the scripts, which run the same code."""

    def script(found):
        start = "python" if found[2] in _WITHOUT_LAUNCHER else "accelerate launch"
        return f"{found[1]}{start} scripts/{COMMANDS[found[2]].module}.py"

    return re.sub(r"(^|&& )hf-focal ([a-z-]+)(?=\s|$)", script, text, flags=re.MULTILINE)


def blocks(language, pages=(README, *PAGES)):
    """The different blocks of code in the README and the pages of `docs/`, or in others, see [`as_scripts`]."""
    text = as_scripts("\n".join(page.read_text(encoding="utf-8") for page in pages))
    return list(dict.fromkeys(re.findall(rf"```{language}\n(.*?)```", text, flags=re.DOTALL)))


def run_main(script):
    """Run the `main` of a script in this process, whose locks go as they would at its end; errors stay as they are."""
    try:
        runpy.run_path(script)["main"]()
    finally:
        release_all()
