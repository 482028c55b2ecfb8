# Copyright 2026 The hf_focal authors. Licensed under the Apache License, Version 2.0.
"""What a map gained on the NLL and what is left: numbers against plain NumPy, and the words for each method."""

import json
import re
from functools import cache

import numpy as np
import pytest
from scipy.special import log_softmax

from hf_focal import About, Predictions, compare_runs, create_model_card, fit_calibrator, make_report
from hf_focal.calibrators import Chain, Fit, TemperatureScaling
from hf_focal.calibrators.bias import BiasCorrection
from hf_focal.models.record import record_of
from hf_focal.predictions import save_predictions
from hf_focal.results.folder import save_run
from hf_focal.results.gain import best_fit, same, temperature_refinement


def drawn(count, seed, tilt=0.0, sharpness=2.0, classes=6):
    """Logits that are too sharp and, under a tilt, lack a shift of their classes."""
    generator = np.random.default_rng(seed)
    true = 2 * generator.normal(size=(count, classes))
    tilted = true + tilt * np.linspace(-1, 1, classes)
    labels = (tilted + generator.gumbel(size=true.shape)).argmax(axis=1)
    return (sharpness * true).astype(np.float32), labels


def nll(logits, labels):
    """Of each row, by its definition."""
    return -log_softmax(np.asarray(logits, float), axis=1)[np.arange(len(labels)), labels]


def percentiles(differences, groups=None):
    """The bootstrap of their mean, of whole groups where there are any, as [`paired_bootstrap`] draws it."""
    generator, found = np.random.default_rng(0), []
    members = [[i] for i in range(len(differences))]
    if groups is not None:
        members = [np.flatnonzero(groups == name) for name in np.unique(groups)]
    for _ in range(1000):
        rows = np.concatenate([members[i] for i in generator.integers(0, len(members), len(members))])
        found.append(differences[rows].mean())
    return np.quantile(found, (0.05, 0.95))


VALIDATION, TEST = Predictions(*drawn(800, 0, 1.0)), Predictions(*drawn(800, 1, 1.0))
METHODS = ("none", "temperature", "bias", "vector", "matrix", "focal", "chain")


@pytest.fixture(scope="module")
def best():
    return best_fit(VALIDATION)


@cache
def reported(method):
    return make_report(TEST, fitted(method), best=best_fit(VALIDATION))


@cache
def fitted(method):
    if method == "chain":
        chain = Chain.of(TemperatureScaling(2.0), BiasCorrection(tuple(np.linspace(-1, 1, 6))))
        return Fit(chain, "nll", 800, {}, {})
    return fit_calibrator(VALIDATION.logits, VALIDATION.labels, method)


@pytest.mark.parametrize("groups", [None, np.arange(800) // 4])
def test_gain_and_what_is_left_are_those_of_the_definitions(best, groups):
    fit, test = fitted("temperature"), Predictions(TEST.logits, TEST.labels, groups)
    made = make_report(test, fit, best=best)
    before, after = nll(TEST.logits, TEST.labels), nll(TEST.logits.astype(float) / fit.temperature, TEST.labels)
    assert made.nll_gain.difference == pytest.approx(np.mean(before - after), abs=1e-9)
    assert (made.nll_gain.low, made.nll_gain.high) == pytest.approx(percentiles(before - after, groups), abs=1e-9)
    # Of maps that are affine, what auto chose is a matrix and a shift.
    affine = best.calibrator.affine(6)
    scale = affine.scale if np.ndim(affine.scale) == 2 else np.diag(affine.scale)
    mapped = nll(TEST.logits.astype(float) @ scale.T + affine.shift, TEST.labels)
    assert made.refinement.value == pytest.approx(mapped.mean(), abs=1e-9)
    further = made.refinement.further
    assert further.difference == pytest.approx(np.mean(after - mapped), abs=1e-9) and further.low > 0
    assert (further.low, further.high) == pytest.approx(percentiles(after - mapped, groups), abs=1e-9)
    shown = f"{np.mean(before - after):.4f} ({made.nll_gain.low:.4f} to {made.nll_gain.high:.4f})"
    assert made.gain == (
        f"The temperature lowers the NLL by {shown}; {after.mean():.4f} is left, which --calibrator auto "
        f"({best.method}) would lower by a further {further.difference:.4f} ({further.low:.4f} to {further.high:.4f})."
    )
    rows = {title: cells for title, *cells in made.rows()}
    assert rows["- gain"] == ["", shown] and rows["- left"] == ["", f"{mapped.mean():.4f}"]
    assert made.gain in str(made)


def test_where_the_best_map_was_fitted_nothing_further_is_promised(best):
    made = make_report(TEST, best, best=best)
    assert made.refinement.further is None and made.refinement.value == pytest.approx(made.after["nll"])
    end = f"; {made.after['nll']:.4f} is left, which no other map of its logits is known to lower."
    assert made.gain.endswith(end) and "auto" not in made.gain


def test_noise_is_no_gain():
    """A model that is calibrated: whatever is fitted to some draws gains nothing on others."""
    logits, labels = drawn(1600, 5, sharpness=1.0)
    validation, test = Predictions(logits[:800], labels[:800]), Predictions(logits[800:], labels[800:])
    best = best_fit(validation)
    slight = Fit(TemperatureScaling(1.01), "nll", 800, {}, {})
    made = make_report(test, slight, best=best)
    change = made.nll_gain
    assert change.low < 0 < change.high and made.refinement.further is None
    assert re.fullmatch(
        r"Nothing is gained beyond noise: the temperature (lowers|raises) the NLL by 0\.\d{4} \(-0\.\d{4} to "
        r"0\.\d{4}\), to \d\.\d{4}, which no other map of its logits is known to lower\.",
        made.gain,
    )
    least = make_report(test, Fit(TemperatureScaling(1 + 1e-6), "nll", 800, {}, {}), best=best)
    assert least.gain.startswith(f"Nothing is gained: the NLL stays {least.after['nll']:.4f}, which no other")
    assert ("- gain", "", "0.0000 (0.0000 to 0.0000)") in least.rows()
    harmful = make_report(test, Fit(TemperatureScaling(0.4), "ece", 800, {}, {}), best=best)
    assert harmful.gain.startswith("The temperature raises the NLL by ") and harmful.worse
    assert "which --calibrator auto (" in harmful.gain
    assert harmful.refinement.value == pytest.approx(
        nll(best.calibrator.calibrated_logits(test.logits), test.labels).mean()
    )
    alone = make_report(test, fit_calibrator(validation.logits, validation.labels, "none"), best=best)
    assert alone.gain.startswith(f"Nothing is gained: the NLL stays {alone.before['nll']:.4f}")
    assert "further" not in alone.gain


def test_nothing_is_said_of_what_was_not_looked_for():
    fit = fitted("temperature")
    made = make_report(TEST, fit)
    assert made.refinement is None and made.gain.endswith(f"; {made.after['nll']:.4f} is left.")
    single = make_report(Predictions(TEST.logits[:1], TEST.labels[:1]), fit, best=fit)
    assert single.nll_gain is None and single.refinement is None and single.gain == ""
    assert same(VALIDATION, VALIDATION) and not same(VALIDATION, TEST)
    assert best_fit(Predictions(np.empty((1, 200_000_000), np.float16), np.zeros(1, int))) is None  # minutes
    with pytest.warns(UserWarning):
        fit_calibrator(VALIDATION.logits[:50], VALIDATION.labels[:50], "auto")
    assert best_fit(Predictions(VALIDATION.logits[:50], VALIDATION.labels[:50])) is not None  # without a warning


NOUNS = {
    "bias": "shift of the classes", "vector": "scaling of the classes", "matrix": "matrix scaling",
    "focal": "temperature", "temperature": "temperature", "chain": "calibrator",
}  # fmt: skip


@pytest.mark.parametrize("folded", [True, False])
@pytest.mark.parametrize("method", METHODS)
def test_report_and_card_are_true_of_each_method(method, folded, tmp_path):
    fit, made = fitted(method), reported(method)
    facts = {"criterion": "nll", "split": "validation", "n_samples": 800, "loss": "focal"}
    if method == "none":
        facts |= {"helped": False, "why": fit.why}
    about = About("m", "text-classification", record_of(fit.calibrator, facts, folded))
    text, said = create_model_card(about, made).text, str(made)
    assert made.gain in text and made.gain in said and "| - gain |  | " in text and "| - left |  | " in text
    if method not in ("temperature", "focal", "chain"):
        assert "temperature" not in re.sub(r"(?s)```.*?```|@.*", "", text).lower().replace("no temperature", "")
    use = text.split("## Use")[1].split("## Training")[0]
    if method == "none":
        assert "as they were trained" in text and fit.why in text and "was fitted" not in text
        assert "with calibrated probabilities" not in text and "from transformers import pipeline" in text
        assert said.splitlines()[0].endswith("(no calibrator; in brackets: 90% intervals)")
        assert "after (no calibrator)" in made.diagram().axes[1].get_title()
        assert made.nll_gain.difference == 0 and "Nothing is gained" in made.gain
    else:
        assert f"before {NOUNS[method]} | after |" in text and f"- The {NOUNS[method]} was fitted by `nll`" in text
        assert f"The {NOUNS[method]} lowers the NLL" in made.gain
        assert f"({fit.calibrator}; in" in said.splitlines()[0]
        place = "is folded into the classification head" if folded else "The weights give logits before calibration"
        assert place in use and ("from hf_focal import pipeline" in use) != folded
        assert folded or f"applies the {NOUNS[method]} to the logits" in use
    save_run(tmp_path, made, {"validation": VALIDATION, "test": TEST}, {}, {"loss": "focal"}, "m")
    results = json.loads((tmp_path / "all_results.json").read_text())
    assert results["calibrator"] == method and (results["temperature"] is None) == (method in ("none", "bias"))
    gain = made.nll_gain
    assert results["nll_gain"] == {"value": gain.difference, "low": gain.low, "high": gain.high}
    left, further = results["refinement"], made.refinement.further
    assert left["value"] == made.refinement.value and left["method"] == made.refinement.calibrator.method
    assert left["further"] == (further and {"value": further.difference, "low": further.low, "high": further.high})


def test_a_map_that_was_not_taken_is_named_as_none():
    logits, labels = drawn(400, 3, sharpness=1.0)
    fit = fit_calibrator(logits, labels, "matrix")
    assert fit.unchanged
    made = make_report(TEST, fit)
    assert "(no matrix scaling; in brackets" in str(made).splitlines()[0] and made.gain.startswith("Nothing is gained")
    record = {"method": "matrix", "helped": False, "why": fit.why, "folded": True, **fit.calibrator.to_record()}
    assert "No map was found that is sure" in create_model_card(About("m", calibration=record), made).text


def test_refinement_of_a_checkpoint_is_the_smallest_nll_that_a_temperature_gives():
    logits, labels = drawn(400, 4)
    found, grid = temperature_refinement(logits, labels), np.geomspace(0.5, 8, 2000)
    assert found == pytest.approx(min(nll(logits / t, labels).mean() for t in grid), abs=1e-6)
    assert found == pytest.approx(temperature_refinement(7 * logits, labels), abs=1e-7)


# ---- Runs side by side ----------------------------------------------------------------------------------------------


def a_run(folder, name, sharpness, noise=0.0, validation=True, results=(), **settings):
    """What a run leaves as far as it is compared; `noise` is what no map takes out of its logits again."""
    generator, parts = np.random.default_rng(7), {}
    for seed, part in enumerate(("validation", "test") if validation else (None, "test")):
        logits, labels = drawn(800, seed, 1.0, sharpness)
        logits += (noise * generator.normal(size=logits.shape)).astype(np.float32)
        parts |= {part: Predictions(logits, labels)} if part else {}
    fit = fit_calibrator(parts["test"].logits, parts["test"].labels, "temperature")
    stored = {"dataset": "d", "model": "m", "loss": name, "temperature": fit.temperature} | settings
    for moment, values in (("before", fit.before), ("after", fit.after)):
        stored |= {f"test_{moment}_{key}": value for key, value in values.items()}
    (folder / name).mkdir()
    save_predictions(folder / name / "predictions.safetensors", parts)
    (folder / name / "config.json").write_text(json.dumps({"calibration": record_of(fit.calibrator, {}, True)}))
    (folder / name / "all_results.json").write_text(json.dumps({**stored, **dict(results)}))
    return folder / name, parts, fit


def columns_of(table):
    header, _, *rows = [line[2:-2].split(" | ") for line in table.splitlines()]
    return {title: list(cells) for title, *cells in zip(header, *rows, strict=True)}


def test_runs_show_what_their_calibrators_gain_and_what_the_best_leave(tmp_path):
    runs = {name: a_run(tmp_path, name, sharpness) for name, sharpness in (("sharp", 3.0), ("mild", 1.3))}
    table = columns_of(compare_runs([folder for folder, *_ in runs.values()]))
    titles = [*table]
    assert titles[titles.index("NLL gain") - 1 : titles.index("NLL gain") + 3] == [
        "Brier after", "NLL gain", "NLL left", "ECE before",
    ]  # fmt: skip
    for index, (_, parts, fit) in enumerate(runs.values()):
        test = parts["test"]
        gains = nll(test.logits, test.labels) - nll(test.logits.astype(float) / fit.temperature, test.labels)
        low, high = percentiles(gains)
        assert table["NLL gain"][index] == f"{gains.mean():.4f} ({low:.4f} to {high:.4f})"
        best = fit_calibrator(parts["validation"].logits, parts["validation"].labels, "auto")
        left = nll(best.calibrator.calibrated_logits(test.logits.astype(float)), test.labels).mean()
        assert best.method in ("vector", "matrix") and table["NLL left"][index].strip("*") == f"{left:.4f}"


def test_the_least_that_is_left_is_bold_where_it_is_beyond_noise(tmp_path):
    settings = (("good", 3.0, 0.0), ("worse", 1.0, 1.0), ("alike", 2.0, 0.0))
    good, worse, alike = (a_run(tmp_path, name, sharpness, noise)[0] for name, sharpness, noise in settings)
    marked = columns_of(compare_runs([good, worse]))["NLL left"]
    assert marked[0].startswith("**") and not marked[1].startswith("**")
    assert not any(cell.startswith("**") for cell in columns_of(compare_runs([good, alike]))["NLL left"])


def test_what_cannot_be_told_of_a_run_is_a_dash_or_no_column(tmp_path):
    whole, without = a_run(tmp_path, "whole", 2.0)[0], a_run(tmp_path, "without", 2.5, validation=False)[0]
    table = columns_of(compare_runs([whole, without]))
    assert table["NLL left"][1] == "-" and table["NLL gain"][1] != "-" and "**" not in "".join(table["NLL left"])
    assert "NLL left" not in columns_of(compare_runs([without]))
    (without / "predictions.safetensors").unlink()
    assert not {"NLL left", "NLL gain"} & {*columns_of(compare_runs([without]))}
    kept = {"nll_gain": {"value": 0.25, "low": -0.5, "high": 1.0}, "refinement": {"value": 0.75, "method": "vector"}}
    said = columns_of(compare_runs([a_run(tmp_path, "kept", 2.0, results=kept)[0]]))  # no need to work it out again
    assert said["NLL gain"] == ["0.2500 (-0.5000 to 1.0000)"] and said["NLL left"] == ["0.7500"]


def test_gains_of_seeds_are_a_mean_with_half_the_range(tmp_path):
    folders = []
    for seed, (value, low) in enumerate(((0.2, 0.1), (0.1, -0.1), (0.01, -0.2), (0.03, -0.1))):
        kept = {"nll_gain": {"value": value, "low": low, "high": 1.0}, "refinement": {"value": 1.0 + value}}
        loss, results = "ab"[seed // 2], {**kept, "loss": "ab"[seed // 2], "calibrator": "vector" if seed else "none"}
        results["calibrator_asked_for"] = "auto"  # which chose otherwise for each seed
        folders.append(a_run(tmp_path, f"{loss}-{seed}", 2.0, results=results, seed=seed)[0])
    table = columns_of(compare_runs(folders))
    assert table["runs"] == ["2", "2"] and table["NLL gain"] == ["0.1500 ± 0.0500", "0.0200 ± 0.0100 ~"]
    worse = {"nll_gain": {"value": -0.1, "low": -0.2, "high": -0.05}}
    harmed = [a_run(tmp_path, f"c-{seed}", 2.0, results=worse, seed=seed, loss="c")[0] for seed in range(2)]
    assert columns_of(compare_runs(harmed))["NLL gain"] == ["-0.1000 ± 0.0000"]
    assert table["NLL left"] == ["1.1500 ± 0.0500", "1.0200 ± 0.0100"]
