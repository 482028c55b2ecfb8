# Copyright 2026 The hf_focal authors. Licensed under the Apache License, Version 2.0.
"""Pages and verdicts: every number against arithmetic written anew, and claims on trainings made up to show them."""

import csv
import json
import re
from dataclasses import replace

import numpy as np
import pytest
import yaml
from PIL import Image
from safetensors.numpy import save_file
from scipy.special import softmax
from sklearn.metrics import roc_auc_score

from hf_focal import Predictions
from hf_focal.predictions import save_predictions
from hf_focal.reproduction.claims import judged
from hf_focal.reproduction.figures import left
from hf_focal.reproduction.grid import read_grid
from hf_focal.reproduction.measured import Difference, read_rows_of
from hf_focal.reproduction.paper import paper_auroc, paper_value
from hf_focal.reproduction.summary import save_picture, write_pages
from hf_focal.results.dynamics_file import NUMBERS, write_rows


PAPER = "CIFAR-10, ResNet-50"


def grid(tmp_path, *losses, seeds=(1,), paper=PAPER):
    table = {"script": "run_image", "models": ["net"], "losses": list(losses), "seeds": list(seeds), "scaled": "All."}
    (tmp_path / "g.yaml").write_text(yaml.safe_dump({"t": {**table, "paper": paper}}))
    return read_grid(tmp_path / "g.yaml")


def drawn(seed, size, sharpness):
    """Logits of a model that is calibrated once they are divided by `sharpness`, and labels drawn from it."""
    generator = np.random.default_rng(0)
    logits = 2 * generator.normal(size=(size, 4))
    labels = (logits + generator.gumbel(size=logits.shape)).argmax(axis=1)
    noise = np.random.default_rng(seed).normal(size=logits.shape)
    return (sharpness * (logits + 0.05 * noise)).astype(np.float32), labels


def finished(tmp_path, loss, seed=1, sharpness=1.0, temperature=1.0, size=1500, ood=None, dynamics=(), **facts):
    home = tmp_path / "results" / "runs" / "g" / "t" / f"net-{loss}-seed{seed}"
    (home / "ood").mkdir(parents=True)
    logits, labels = drawn(seed, size, sharpness)
    parts = {"validation": Predictions(logits[:500], labels[:500]), "test": Predictions(logits, labels)}
    save_predictions(home / "predictions.safetensors", parts)
    results = {"loss": loss, "seed": seed, "temperature": temperature, "calibrator": "temperature", "n_bins": 15}
    results |= facts
    (home / "all_results.json").write_text(json.dumps(results))
    if ood is not None:
        save_file({f"{loss}/{name}": values.astype(np.float32) for name, values in ood.items()},
                  home / "ood" / "ood_entropies.safetensors")  # fmt: skip
    if dynamics:
        write_rows(home / "training_dynamics.parquet", dynamics)
    return logits, labels


def ece(probabilities, labels):
    """In percent, bin by bin as the paper says it."""
    confidence, right = probabilities.max(axis=1), probabilities.argmax(axis=1) == labels
    total = 0.0
    for index in range(15):
        inside = (confidence > index / 15) & (confidence <= (index + 1) / 15)
        if inside.any():
            total += inside.sum() * abs(right[inside].mean() - confidence[inside].mean())
    return 100 * total / len(labels)


def lines(tmp_path, name):
    with open(tmp_path / "results" / f"{name}.csv", newline="") as file:
        return list(csv.DictReader(file))


def test_tables_hold_our_numbers_the_papers_and_a_verdict(tmp_path):
    made = {
        ("cross_entropy", 1): (3.0, 2.5), ("cross_entropy", 2): (3.2, 2.5),
        ("flsd-53", 1): (1.2, 1.1), ("flsd-53", 2): (1.1, 1.1), ("label_smoothing", 1): (4.5, 1.0),
    }  # fmt: skip
    data = {
        (loss, seed): finished(tmp_path, loss, seed, sharpness, temperature)
        for (loss, seed), (sharpness, temperature) in made.items()
    }
    tables = grid(tmp_path, "cross_entropy", "flsd-53", "label_smoothing", "brier", seeds=(1, 2))
    write_pages(tmp_path / "results", {"g": tables}, pictures=False)
    found = {(one["loss"], one["metric"], one["moment"]): one for one in lines(tmp_path, "table1")}
    assert {loss for loss, _, _ in found} == {"cross_entropy", "flsd-53", "label_smoothing"}
    for (loss, metric, moment), one in found.items():
        assert one["preset"] == "g" and one["dataset"] == "CIFAR-10" and one["model"] == "net"
        if metric == "temperature":
            assert float(one["ours"]) == made[loss, 1][1]
            continue
        values = []
        for (name, seed), (logits, labels) in data.items():
            scale = made[name, seed][1] if moment == "after" else 1
            values += [ece(softmax(logits.astype(np.float64) / scale, axis=1), labels)] * (name == loss)
        assert float(one["ours"]) == pytest.approx(np.mean(values), abs=1e-5)
        assert float(one["lowest_seed"]) == pytest.approx(min(values), abs=1e-5)
        assert float(one["highest_seed"]) == pytest.approx(max(values), abs=1e-5)
        # From the lowest end of the seeds' intervals to the highest: a true ECE may be less than is observed.
        assert float(one["interval_low"]) <= max(values) and float(one["interval_high"]) >= min(values) * 0.6
    papers = {
        ("cross_entropy", "before"): "4.35", ("cross_entropy", "after"): "1.35",
        ("flsd-53", "before"): "1.55", ("flsd-53", "after"): "0.95", ("label_smoothing", "before"): "2.96",
    }  # fmt: skip
    for (loss, moment), value in papers.items():
        assert found[loss, "ece", moment]["paper"] == value
    assert found["flsd-53", "temperature", "after"]["paper"] == "1.1"
    # The paper has both below cross-entropy. Here FLSD-53 is made far better, and label smoothing far worse.
    assert found["flsd-53", "ece", "before"]["verdict"] == "holds"
    assert found["label_smoothing", "ece", "before"]["verdict"] == "does not hold"
    assert found["cross_entropy", "ece", "before"]["verdict"] == ""
    difference = found["flsd-53", "ece", "before"]
    means = [float(found[loss, "ece", "before"]["ours"]) for loss in ("flsd-53", "cross_entropy")]
    assert float(difference["difference"]) == pytest.approx(means[0] - means[1], abs=1e-5)
    assert float(difference["difference_low"]) < means[0] - means[1] < float(difference["difference_high"]) < 0

    errors = {(one["loss"]): one for one in lines(tmp_path, "table2")}
    for loss in ("cross_entropy", "flsd-53"):
        wrong = [100 * np.mean(x.argmax(axis=1) != y) for (name, _), (x, y) in data.items() if name == loss]
        assert float(errors[loss]["ours"]) == pytest.approx(np.mean(wrong), abs=1e-6)
    assert errors["cross_entropy"]["paper"] == "4.95" and errors["flsd-53"]["paper"] == "4.98"
    page = (tmp_path / "results" / "table1.md").read_text()
    assert "All." in page and re.search(r"Of 4 orders against cross-entropy 2 hold, 1 do not, 1 are undecided", page)
    nll = {(one["loss"], one["moment"]): one for one in lines(tmp_path, "table_f_nll")}
    logits, labels = data["label_smoothing", 1]
    own = -np.log(softmax(logits.astype(np.float64), axis=1)[np.arange(len(labels)), labels]).mean()
    assert float(nll["label_smoothing", "before"]["ours"]) == pytest.approx(own, abs=1e-5)
    assert (nll["label_smoothing", "before"]["verdict"], nll["flsd-53", "before"]["verdict"]) == ("", "holds")


def test_runs_of_two_grids_never_share_a_panel(tmp_path):
    """Two sizes of one row of the paper are two networks."""
    for loss in ("cross_entropy", "focal-3"):
        finished(tmp_path, loss)
    (row,) = read_rows_of("g", grid(tmp_path, "cross_entropy", "focal-3"), tmp_path / "results" / "runs" / "g")
    figure = left([row, replace(row, preset="other")])
    assert [axis.get_xlabel().replace("\n", " ") for axis in figure.axes] == [
        "CIFAR-10, net for ResNet-50 (g/t): NLL in nats", "CIFAR-10, net for ResNet-50 (other/t): NLL in nats",
    ]  # fmt: skip


def test_what_was_not_run_stands_as_its_command(tmp_path):
    finished(tmp_path, "cross_entropy")
    write_pages(tmp_path / "results", {"g": grid(tmp_path, "cross_entropy", "brier", seeds=(1, 2))}, pictures=False)
    text = (tmp_path / "results" / "README.md").read_text()
    told = "**Not run**: CIFAR-10, net for ResNet-50 (`g/t`), net; seed 1: brier; seed 2: cross_entropy, brier. "
    assert told + "`python scripts/reproduce.py --preset g --data_root path/to/data --only t/net-`" in text


def test_pages_of_nothing_say_so(tmp_path):
    write_pages(tmp_path / "results", {"g": grid(tmp_path, "cross_entropy")}, pictures=False)
    assert "Nothing of it was run yet" in (tmp_path / "results" / "table3.md").read_text()
    assert lines(tmp_path, "table1") == []


def entropies(shift):
    generator = np.random.default_rng(1)
    found = {}
    for moment in ("before", "after"):
        found[f"familiar/{moment}"] = generator.gamma(2, size=400)
        found[f"svhn_cropped/{moment}"] = generator.gamma(2, size=300) + shift
    return found


def test_unfamiliar_data_are_told_by_the_auroc_of_their_entropy(tmp_path):
    scores = {"cross_entropy": entropies(0.3), "focal-3": entropies(2.0), "flsd-53": entropies(1.0)}
    for loss, ood in scores.items():
        finished(tmp_path, loss, ood=ood)
    tables = grid(tmp_path, *scores, paper="CIFAR-10, ResNet-110")
    write_pages(tmp_path / "results", {"g": tables}, pictures=False)
    found = {(one["loss"], one["moment"]): one for one in lines(tmp_path, "table3")}
    for (loss, moment), one in found.items():
        inside, outside = (scores[loss][f"{data}/{moment}"] for data in ("familiar", "svhn_cropped"))
        expected = 100 * roc_auc_score(np.repeat([0, 1], [400, 300]), np.concatenate([inside, outside]))
        assert float(one["ours"]) == pytest.approx(expected, abs=1e-4)
        assert float(one["interval_low"]) < expected < float(one["interval_high"])
        assert one["unfamiliar_data"] == "svhn_cropped"
    assert found["cross_entropy", "before"]["paper"] == "61.71" and found["flsd-53", "after"]["paper"] == "90.97"
    assert found["focal-3", "before"]["verdict"] == found["flsd-53", "after"]["verdict"] == "holds"
    (claim,) = [findings for claim, findings in verdicts(tmp_path, tables) if "unfamiliar" in claim.words]
    assert [finding.verdict for finding in claim] == ["holds", "holds"] and "focal-3 best of all" in claim[0].numbers


def verdicts(tmp_path, tables):
    return judged(read_rows_of("g", tables, tmp_path / "results" / "runs" / "g"))


def training(loss, nll_incorrect, entropy, ece, norms):
    rows = []
    for epoch, values in enumerate(zip(nll_incorrect, entropy, ece, norms, strict=True)):
        wrong, spread, error, norm = values
        numbers = dict.fromkeys(NUMBERS, 0.1) | {"nll": 0.5 + abs(epoch - 1) * wrong / 10, "nll_incorrect": wrong}
        numbers |= {"entropy": spread, "ece": error, "weight_norm": norm}
        row = {"epoch": float(epoch), "step": epoch, "split": "test", "loss": loss, "n_samples": 9}
        rows.append({**row, **numbers, "gradient_norms": None})
    return rows


@pytest.mark.parametrize(
    ("focal_norms", "focal_wrong", "expected"),
    [
        ((1, 3, 4), (2, 2, 2.2), ("holds", "holds")),
        ((1, 1, 4), (2, 2, 2.2), ("holds", "does not hold")),
        ((1, 3, 9), (2, 2, 4.9), ("does not hold", "does not hold")),
    ],
)
def test_claims_on_training_are_judged_from_its_curves(tmp_path, focal_norms, focal_wrong, expected):
    finished(tmp_path, "cross_entropy", dynamics=training("a", (2, 2, 3), (1, 0.9, 0.4), (0, 0.1, 0.2), (1, 2, 5)))
    finished(tmp_path, "focal-3", dynamics=training("b", focal_wrong, (1, 0.9, 0.8), (0, 0.1, 0.1), focal_norms))
    found = verdicts(tmp_path, grid(tmp_path, "cross_entropy", "focal-3"))
    assert [findings[0].verdict for _, findings in found[:2]] == list(expected)
    assert "NLL of wrong answers +1.00" in found[0][1][0].numbers


def test_a_larger_gamma_and_a_temperature_near_one_are_judged(tmp_path):
    for loss, sharpness in (("focal-1", 4.0), ("focal-2", 3.0), ("focal-3", 1.0), ("cross_entropy", 5.0)):
        finished(tmp_path, loss, sharpness=sharpness)
    finished(tmp_path, "flsd-53", 1, temperature=1.0)
    finished(tmp_path, "flsd-53", 2, temperature=1.3)
    tables = grid(tmp_path, "cross_entropy", "focal-1", "focal-2", "focal-3", "flsd-53", seeds=(1, 2))
    found = {claim.words.partition(" ")[0]: findings for claim, findings in verdicts(tmp_path, tables)}
    assert [one.verdict for one in found["Focal"]] == ["holds"]
    assert [one.verdict for one in found["The"]] == ["undecided"]  # one seed of two
    assert "flsd-53 1.0 and 1.3" in found["The"][0].numbers


def stopped(**by_criterion):
    """By criterion, and `last`: error and ECE of the test data, in percent."""
    numbers = {
        criterion: {"test_before_accuracy": 1 - error / 100, "test_before_ece": ece / 100, "test_after_ece": 0.01,
                    "epoch": 3.0, "temperature": 1.2}
        for criterion, (error, ece) in by_criterion.items()
    }  # fmt: skip
    return {"stopping_criteria": numbers}


def test_early_stopping_is_judged_by_each_criterion(tmp_path):
    finished(tmp_path, "cross_entropy", **stopped(last=(9, 9), ece=(30, 2), nll=(8, 4), accuracy=(7, 7)))
    finished(tmp_path, "flsd-53", **stopped(last=(1, 1), ece=(20, 1), nll=(7, 5), accuracy=(7.5, 8)))
    tables = grid(tmp_path, "cross_entropy", "flsd-53")
    (found,) = [one for claim, one in verdicts(tmp_path, tables) if claim.words.startswith("Whatever")]
    assert [(one.row.rpartition("best ")[2], one.verdict) for one in found] == [
        ("ece", "holds"), ("nll", "does not hold"), ("accuracy", "does not hold"),
    ]  # fmt: skip
    assert found[0].numbers == "error 20.00 against 30.00, ECE 1.00 against 2.00"
    write_pages(tmp_path / "results", {"g": tables}, pictures=False)
    text = (tmp_path / "results" / "README.md").read_text()
    assert "| CIFAR-10, net for ResNet-50 (`g/t`) | flsd-53 | 1 | nll | 3 | 1.2 | 7.00 | 5.00 | 1.00 |" in text
    assert "**Not run**: Appendix J" not in text


def test_a_network_that_stands_for_the_papers_is_named(tmp_path):
    table = {"script": "run_image", "losses": ["a"], "seeds": [1], "models": {
        "cifar_wide_resnet26_10": {"paper": "CIFAR-10, Wide-ResNet-26-10"},
        "small": {"paper": "SST Binary, Tree-LSTM"}, "tree-lstm": {"paper": "SST Binary, Tree-LSTM"}, "other": {},
    }}  # fmt: skip
    (tmp_path / "g.yaml").write_text(yaml.safe_dump({"t": table}, sort_keys=False))
    rows = read_rows_of("g", read_grid(tmp_path / "g.yaml"), tmp_path)
    assert [row.title for row in rows] == [
        "CIFAR-10, Wide-ResNet-26-10 (`g/t`)", "SST Binary, small for Tree-LSTM (`g/t`)",
        "SST Binary, Tree-LSTM (`g/t`)", "t, other (`g/t`)",
    ]  # fmt: skip


def test_pictures_are_small_and_still_say_what_they_show(tmp_path):
    for loss in ("cross_entropy", "focal-3"):
        finished(tmp_path, loss)
    (row,) = read_rows_of("g", grid(tmp_path, "cross_entropy", "focal-3"), tmp_path / "results" / "runs" / "g")
    picture, file = left([row]), tmp_path / "left.png"
    save_picture(picture, file)
    with Image.open(file) as image:
        assert image.mode == "P" and image.info["Description"] == picture.alt_text
        shown = np.asarray(image.convert("RGB"), np.int64)
    picture.savefig(tmp_path / "whole.png")
    with Image.open(tmp_path / "whole.png") as image:
        assert np.abs(np.asarray(image.convert("RGB"), np.int64) - shown).mean() < 0.5
    assert file.stat().st_size < 0.6 * (tmp_path / "whole.png").stat().st_size


def test_errors_that_scale_alone_are_in_the_same_range(tmp_path):
    for loss in ("cross_entropy", "flsd-53"):
        finished(tmp_path, loss, 1, sharpness=2.0)
    (found,) = [one for claim, one in verdicts(tmp_path, grid(tmp_path, "cross_entropy", "flsd-53"))
                if claim.words.startswith("Errors")]  # fmt: skip
    assert [one.verdict for one in found] == ["holds"] and "flsd-53 +0.00" in found[0].numbers


@pytest.mark.parametrize(
    ("lower", "higher", "claim", "verdict"),
    [(True, False, True, "holds"), (True, False, False, "does not hold"), (False, True, False, "holds"),
     (False, False, True, "undecided"), (False, False, False, "undecided")],
)  # fmt: skip
def test_verdicts(lower, higher, claim, verdict):
    assert Difference(0.0, -1.0, 1.0, lower, higher).verdict(claim) == verdict


def test_the_papers_figures_are_those_of_its_tables():
    assert paper_value("SST Binary, Tree-LSTM", "focal-3", "ece", "before") == 16.05
    assert paper_value("SST Binary, Tree-LSTM", "focal-3", "temperature") == 0.5
    assert paper_value("20 Newsgroups, Global Pooling CNN", "focal-1", "temperature") == 2.6
    assert paper_value("Tiny-ImageNet, ResNet-50", "brier", "accuracy") == 53.2
    assert paper_value("CIFAR-100, DenseNet-121", "flsd-53", "ece", "after") == 1.31
    assert paper_auroc("CIFAR-10, Wide-ResNet-26-10", "CIFAR-10-C", "flsd-53", "after") == 87.3
    assert paper_value("digits, net", "brier", "ece") is None and paper_auroc("x", "y", "z", "before") is None
