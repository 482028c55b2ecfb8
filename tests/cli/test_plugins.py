# Copyright 2026 The hf_focal authors. Licensed under the Apache License, Version 2.0.
"""A loss, a metric and a calibrator in a file of somebody's own: `--plugin` makes them work by name everywhere."""

import json
import pickle
import re
import shlex
import subprocess
import sys
from dataclasses import dataclass

import numpy as np
import pytest
import yaml
from conftest import ROOT
from huggingface_hub import ModelCard
from launching import blocks, launch
from safetensors.numpy import load_file

from hf_focal import CALIBRATORS, LOSSES, METRICS, TASKS, CalibrationTrainingArguments, parse_arguments
from hf_focal.cli.arguments import import_plugin


PLUGIN = '''
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
from scipy.optimize import minimize
from scipy.special import log_softmax

from hf_focal import Affine, CalibrationLoss, Calibrator, register_calibrator, register_loss, register_metric


@register_loss("power")
class PowerLoss(CalibrationLoss):
    """A power of the cross-entropy."""

    def __init__(self, *, exponent: float = 2.0, **options):
        super().__init__(**options)
        self.exponent = exponent

    def of_rows(self, rows):
        return rows.nll() ** self.exponent


@register_metric("confident_wrong", title="Confidently wrong", style=".2%", bounds=(0.0, 1.0))
def confident_wrong(scored, n_bins):
    return float(np.mean(scored.confidences * ~scored.correct))


@register_calibrator
@dataclass(frozen=True)
class Bias(Calibrator):
    """A shift of each class by the NLL."""

    method: ClassVar[str] = "own-bias"
    criteria: ClassVar[tuple[str, ...]] = ("nll",)
    bias: tuple[float, ...]

    @classmethod
    def fit(cls, logits, labels, *, criterion, n_bins):
        def nll_and_slope(bias):
            p = log_softmax(logits + bias, axis=1)
            return -p[np.arange(len(p)), labels].mean(), np.exp(p).mean(axis=0) - shares

        shares = np.bincount(labels, minlength=logits.shape[1]) / len(labels)
        bias = minimize(nll_and_slope, 0 * shares, jac=True, tol=1e-10).x
        return cls(tuple((bias - bias.mean()).tolist()))

    def affine(self, num_labels):
        return Affine(shift=np.array(self.bias))
'''

SCRIPT = str(ROOT / "scripts" / "run_image.py")
QUICK = [
    "--model_name_or_path",
    "test_resnet",
    "--train_from_scratch",
    "--image_size",
    "32",
    "--num_train_epochs",
    "1",
]
QUICK += ["--augmentation", "none", "--use_cpu", "true"]
BY_NAME = ["--loss", "power", "--loss_kwargs", '{"exponent": 1.5}', "--calibrator", "own-bias", "--criterion", "nll"]
BEST = ["--metric_for_best_model", "confident_wrong", "--load_best_model_at_end", "true"]


@pytest.fixture(scope="module")
def plugin(tmp_path_factory):
    path = tmp_path_factory.mktemp("plugins") / "power_and_bias.py"
    path.write_text(PLUGIN)
    return str(path)


@pytest.fixture(scope="module")
def run(tmp_path_factory, plugin):
    folder = tmp_path_factory.mktemp("run") / "power"
    flags = ["--plugin", plugin, *BY_NAME, *BEST, "--track_dynamics", "--output_dir", str(folder)]
    return folder, launch(SCRIPT, *QUICK, *flags).stdout


def record_of(folder):
    return json.loads((folder / "config.json").read_text())["calibration"]


def fresh(code, *arguments):
    """The output of a process that never heard of the plugin."""
    return subprocess.run([sys.executable, "-c", code, *map(str, arguments)], capture_output=True, text=True, cwd=ROOT)


# ---- A run ----------------------------------------------------------------------------------------------------------


def test_table_results_and_card_have_them_by_name(run):
    folder, printed = run
    assert re.search(r"^Training test_resnet with PowerLoss\(.*exponent=1.5", printed, flags=re.MULTILINE)
    cell = r" +[\d.]+% \([\d.]+% to [\d.]+%\)"
    row = rf"^Confidently{cell}{cell}(?: +better| +worse)? *\n *wrong *$"  # of 80 columns
    assert re.search(row, printed, flags=re.MULTILINE)
    results = json.loads((folder / "all_results.json").read_text())
    assert results["loss"] == "power" and results["loss_parameters"] == {"exponent": 1.5}
    assert results["calibrator"] == "own-bias" and "eval_confident_wrong" not in results
    assert 0 < results["test_after_confident_wrong"] < 1
    assert results["metrics"]["confident_wrong"]["title"] == "Confidently wrong"
    record = record_of(folder)
    assert record["method"] == "own-bias" and len(record["bias"]) == 10 and record["folded"] is True
    assert record["loss"] == "power" and record["loss_parameters"] == {"exponent": 1.5}
    card = ModelCard.load(folder / "README.md")
    measured = [result for result in card.data.eval_results if result.metric_type == "confident_wrong"]
    for moment, result in zip(("before", "after"), measured, strict=True):
        assert moment in result.metric_name
        assert result.metric_value == pytest.approx(results[f"test_{moment}_confident_wrong"])
        low, high = result.metric_args["interval"]
        assert 0 < low <= result.metric_value <= high < 1
    assert "| Confidently wrong | " in card.text and "Trained with the loss `power` (exponent 1.5)" in card.text


def test_the_metric_chooses_the_best_checkpoint_the_lowest_of_it(plugin):
    code = f"""
from hf_focal import CalibrationTrainingArguments
from hf_focal.cli.arguments import import_plugin
print(CalibrationTrainingArguments("x", use_cpu=True, metric_for_best_model="confident_wrong").greater_is_better)
import_plugin({plugin!r})
print(CalibrationTrainingArguments("x", use_cpu=True, metric_for_best_model="confident_wrong").greater_is_better)
"""
    assert fresh(code).stdout.split() == ["True", "False"]


STRANGER = """
import sys
sys.modules["hf_focal"] = None  # importing it fails from here on
import numpy as np, torch
from safetensors.numpy import load_file
from transformers import AutoImageProcessor, AutoModelForImageClassification
folder, images = sys.argv[1:]
model = AutoModelForImageClassification.from_pretrained(folder).eval()
processor = AutoImageProcessor.from_pretrained(folder)
from PIL import Image
pixels = processor([Image.fromarray(image) for image in np.load(images)], return_tensors="pt")["pixel_values"]
with torch.no_grad():
    print(model(pixels).logits.double().tolist())
"""


def test_the_folded_model_needs_neither_the_plugin_nor_us(run, tmp_path):
    from hf_focal import load_image_dataset

    images = np.stack([np.asarray(image) for image in load_image_dataset()["test"][:8]["image"]])
    np.save(tmp_path / "images.npy", images)
    result = fresh(STRANGER, run[0], tmp_path / "images.npy")
    assert result.returncode == 0, result.stderr
    found = np.array(json.loads(result.stdout.splitlines()[-1]))
    expected = load_file(run[0] / "predictions.safetensors")["test_logits"][:8] + np.array(record_of(run[0])["bias"])
    assert np.abs(found - expected).max() < 1e-4


READER = """
import json, sys
from hf_focal import CALIBRATORS, LOSSES, METRICS, compare_runs, from_pretrained, read_dynamics
print(json.dumps([compare_runs(sys.argv[1:]), list(read_dynamics(sys.argv[1:]))]))
from_pretrained(sys.argv[1])
assert "power" not in LOSSES and "confident_wrong" not in METRICS and "own-bias" not in CALIBRATORS
"""


def test_results_are_read_where_the_plugin_is_not(run):
    result = fresh(READER, run[0])
    assert result.returncode == 0, result.stderr
    table, dynamics = json.loads(result.stdout.splitlines()[-1])
    header, _, row = table.splitlines()
    assert "Confidently wrong before | Confidently wrong after" in header and "power (exponent 1.5)" in row
    assert dynamics == ["power (exponent 1.5)"]


def test_an_unfolded_record_asks_for_the_plugin(run, plugin, tmp_path):
    flags = ["--model_name_or_path", str(run[0]), "--dataset_name", "digits", "--calibrator", "own-bias"]
    flags += ["--criterion", "nll", "--no_fold_temperature", "--use_cpu", "--output_dir", str(tmp_path / "out")]
    launch(str(ROOT / "scripts" / "calibrate.py"), "--plugin", plugin, *flags)
    assert record_of(tmp_path / "out")["folded"] is False
    load = "import sys; from hf_focal import from_pretrained; from hf_focal.cli.arguments import import_plugin\n"
    refused = fresh(load + "from_pretrained(sys.argv[1])", tmp_path / "out")
    assert refused.returncode == 1
    last = refused.stderr.splitlines()[-1]
    assert re.search("ValueError: config.json of .* is refused: .*'own-bias'.*register_calibrator.*--plugin", last), (
        last
    )
    taken = fresh(load + "import_plugin(sys.argv[2]); from_pretrained(sys.argv[1])", tmp_path / "out", plugin)
    assert taken.returncode == 0, taken.stderr


def test_each_of_two_processes_has_it(plugin, tmp_path):
    flags = ["--plugin", plugin, *BY_NAME, "--max_train_samples", "64", "--output_dir", str(tmp_path)]
    printed = launch(SCRIPT, *QUICK, *flags, "--dataloader_num_workers", "1", processes=2).stdout
    assert "in 2 process(es)" in printed and len(re.findall("^Confidently ", printed, flags=re.MULTILINE)) == 1
    assert record_of(tmp_path)["method"] == "own-bias"


def test_the_block_and_the_command_of_the_readme_work(tmp_path):
    (block,) = [block for block in blocks("python") if "register_loss" in block]
    (command,) = [block for block in blocks("bash") if "--plugin" in block]
    accelerate, start, script, *flags = shlex.split(command)
    assert (accelerate, start, script) == ("accelerate", "launch", "scripts/run_image.py")
    (tmp_path / flags[flags.index("--plugin") + 1]).write_text(block)
    printed = launch(SCRIPT, *flags, *QUICK, "--output_dir", str(tmp_path / "out"), cwd=tmp_path).stdout
    assert re.search("^RMSCE ", printed, flags=re.MULTILINE)
    results = json.loads((tmp_path / "out" / "all_results.json").read_text())
    assert results["loss"] == "poly1" and results["loss_parameters"] == {"epsilon": 2.0}
    assert results["test_before_ece"] <= results["test_before_rmsce"] <= 1


# ---- The flag -------------------------------------------------------------------------------------------------------


@dataclass
class Options:
    rate: float = 0.1


@pytest.fixture
def clean(monkeypatch):
    """What a plugin changes is as before afterwards."""
    monkeypatch.setattr(sys, "path", [*sys.path])
    modules, registries = (
        set(sys.modules),
        [(registry, dict(registry)) for registry in (LOSSES, METRICS, CALIBRATORS, TASKS)],
    )
    yield
    for name in set(sys.modules) - modules:
        del sys.modules[name]
    for registry, before in registries:
        registry.clear()
        registry.update(before)


def written(folder, name, text="value = 1\n"):
    folder.mkdir(parents=True, exist_ok=True)
    (folder / name).write_text(text)
    return str(folder / name)


def loss_named(name):
    lines = [
        "from hf_focal import BrierLoss, register_loss",
        f"@register_loss({name!r})",
        "class Own(BrierLoss):",
        "    pass",
    ]
    return "\n".join(lines)


def test_files_and_modules_are_imported_in_their_order(tmp_path, clean, monkeypatch):
    first = written(tmp_path / "a", "plugin_one.py", loss_named("one"))
    second = written(tmp_path / "b", "plugin_two.py", "import plugin_one\n" + loss_named("two"))
    written(tmp_path / "c" / "package_of_plugins", "three.py", loss_named("three"))
    monkeypatch.syspath_prepend(tmp_path / "c")
    parse_arguments([Options], ["--plugin", first, second, "--rate", "1", "--plugin", "package_of_plugins.three"])
    assert list(LOSSES)[-3:] == ["one", "two", "three"]
    parse_arguments([Options], ["--plugin", first])  # again, as a second parser would


def test_a_plugins_classes_are_those_that_workers_import(plugin, clean):
    module = import_plugin(plugin)
    assert module.__name__ == "power_and_bias" and pickle.loads(pickle.dumps(LOSSES["power"])) is module.PowerLoss


@pytest.mark.parametrize("several", [False, True])
def test_a_config_file_may_name_plugins_and_the_command_line_more(tmp_path, clean, several):
    first = written(tmp_path, "plugin_one.py", loss_named("one"))
    second = written(tmp_path, "plugin_two.py", loss_named("two"))
    values = {"plugin": [first] if several else first, "loss": "two", "output_dir": "x", "use_cpu": True}
    (tmp_path / "config.yaml").write_text(yaml.safe_dump(values))
    flags = ["--config", str(tmp_path / "config.yaml"), "--plugin", second]
    (args,) = parse_arguments([CalibrationTrainingArguments], flags)
    assert args.loss == "two" and {"one", "two"} <= set(LOSSES)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("none.py", "--plugin .*none.py: there is no such file"),
        ("json.py", "'json' is that of another module, .*json.*Rename the file"),
        ("my-loss.py", "'my-loss' is no name of a module. Rename the file"),
    ],
)
def test_a_file_that_cannot_be_imported_is_refused(tmp_path, clean, name, message):
    path = written(tmp_path, name) if name != "none.py" else str(tmp_path / name)
    with pytest.raises(ValueError, match=message):
        parse_arguments([Options], ["--plugin", path])


@pytest.mark.parametrize(
    "name", ["no_such_plugin", "no_such.plugin", "hf_focal.no_such_plugin", "./plugin", "../plugin"]
)
def test_a_module_that_is_not_there_is_refused(clean, name):
    with pytest.raises(ValueError, match=f"--plugin {re.escape(name)}: there is no such module. Give a module's name"):
        parse_arguments([Options], ["--plugin", name])


def test_what_a_plugin_itself_lacks_is_its_own_error(tmp_path, clean, monkeypatch):
    written(tmp_path, "plugin_one.py", "import no_such_library\n")
    monkeypatch.syspath_prepend(tmp_path)
    for name in ("plugin_one", str(tmp_path / "plugin_one.py")):
        with pytest.raises(ModuleNotFoundError, match="no_such_library"):
            parse_arguments([Options], ["--plugin", name])


def test_two_files_of_one_name_are_refused(tmp_path, clean):
    first, second = written(tmp_path / "a", "plugin_one.py"), written(tmp_path / "b", "plugin_one.py")
    with pytest.raises(ValueError, match="is that of another module, .*a.plugin_one.py. Rename"):
        parse_arguments([Options], ["--plugin", first, second])


TAKEN_METRIC = (
    "from hf_focal import register_metric\nregister_metric('ece', title='ECE')(lambda scored, n_bins: 0.0)\n"
)
TAKEN_TASK = "from hf_focal import TASKS, register_task\nregister_task(type(TASKS['text-classification']))\n"
TAKEN_METHOD = "from hf_focal import CALIBRATORS, register_calibrator\nregister_calibrator(CALIBRATORS['focal'])\n"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (loss_named("focal"), "loss of the name 'focal' already"),
        (TAKEN_METRIC, "metric 'ece' already"),
        (TAKEN_METHOD, "calibrator 'focal' already"),
        (TAKEN_TASK, "task 'text-classification' already"),
    ],
)
def test_a_taken_name_is_refused(tmp_path, clean, text, message):
    with pytest.raises(ValueError, match=message):
        parse_arguments([Options], ["--plugin", written(tmp_path, "plugin_one.py", text)])
