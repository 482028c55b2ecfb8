# Copyright 2026 The hf_focal authors. Licensed under the Apache License, Version 2.0.
"""What a card says of servers, of logits that lie too far apart for one of them, and of harm."""

import json
import re
import shlex
import warnings

import numpy as np
import pytest
from huggingface_hub import ModelCard
from huggingface_hub.repocard_data import EvalResult, eval_results_to_model_index, model_index_to_eval_results
from scipy.special import log_softmax, softmax
from small_texts import SIZES, sentences

from hf_focal import About, Predictions, create_model_card, fit_temperature, make_report
from hf_focal.calibrators import Fit, TemperatureScaling
from hf_focal.calibrators.base import calibrator_of
from hf_focal.networks import MODEL_TYPES
from hf_focal.results.serving import common_factor
from hf_focal.results.spread import Spread, spread_of
from hf_focal.tasks.text import train_tokenizer


T = 1.7043289
FITTED = {"temperature": T, "criterion": "nll", "split": "validation", "n_samples": 400}
PRIOR = {"method": "prior", "source": [0.5, 0.5], "target": [0.1, 0.9]}
VECTOR = {"method": "vector", "temperature": 2.0, "scale": [1.0, 1.2], "shift": [0.1, -0.1]}
MATRIX = {"method": "matrix", "temperature": 2.0, "matrix": [[1.0, 0.1], [0.0, 1.0]], "shift": [0.0, 0.0]}
FOCAL = {"method": "focal", "gamma": 2.0, "temperature": 1.5}


def entries(record, folded=True, task="text-classification", **about):
    """What the card says of each server, by its name, and the whole card."""
    about = {"architecture": "bert", **about}
    card = create_model_card(About("m", task, {**record, "folded": folded}, **about), model_id="user/m")
    section = card.text.partition("## Serve\n")[2].partition("## Training")[0]
    return dict(re.findall(r"^- \*\*(.+?)\*\*: (.+)$", section, flags=re.MULTILINE)), card.text


def command(entry):
    """The line that a card gives in a code span, as the shell splits it."""
    return shlex.split(re.search(r"`(.+?)`", entry)[1])


@pytest.mark.parametrize("record", [FITTED, VECTOR, MATRIX, {**FITTED, "then": [PRIOR]}])
def test_what_is_folded_is_calibrated_wherever_a_softmax_is_taken(record):
    said, _ = entries(record)
    assert len(said) == 5 and all(entry.startswith("yes") for entry in said.values())
    assert command(said["text-embeddings-inference"]) == ["text-embeddings-router", "--model-id", "user/m"]
    assert command(said["vLLM"]) == ["vllm", "serve", "user/m", "--runner", "pooling"]


def test_an_unfolded_temperature_is_a_number_for_vllm_and_nothing_for_the_others():
    said, _ = entries(FITTED, folded=False)
    *_, flag, options = command(said.pop("vLLM"))
    options = json.loads(options)
    assert flag == "--pooler-config" and options == {"logit_sigma": T, "logit_mean": 0.0}
    assert all(entry.startswith("no") for entry in said.values())
    assert "raw_scores" in said["text-embeddings-inference"]
    # What vLLM does with them: softmax((logits - logit_mean) / logit_sigma).
    logits = np.random.default_rng(0).normal(size=(50, 4))
    served = softmax((logits - options["logit_mean"]) / options["logit_sigma"], axis=1)
    np.testing.assert_allclose(served, calibrator_of(FITTED).probabilities(logits), atol=1e-12)


@pytest.mark.parametrize("record", [VECTOR, MATRIX, FOCAL, {**FITTED, "then": [PRIOR]}])
def test_an_unfolded_map_that_is_more_than_a_number_is_calibrated_nowhere(record):
    said, _ = entries(record, folded=False)
    assert all(entry.startswith("no") for entry in said.values()) and "logit_sigma" not in str(said)


def test_the_number_of_a_map_is_one_only_where_it_does_nothing_else():
    assert common_factor(calibrator_of({**FITTED, "then": [{"temperature": 2.0}]})) == pytest.approx(2 * T)
    shifted = {"method": "bias", "shift": [0.5, 0.5]}  # which no softmax notices
    assert common_factor(calibrator_of(shifted)) == 1
    assert common_factor(calibrator_of({**shifted, "shift": [0.5, 0.6]})) is None
    assert common_factor(calibrator_of(FOCAL)) is None


def test_tokens_have_an_endpoint_of_their_own_and_no_text_embeddings_inference():
    said, _ = entries(FITTED, task="token-classification", folded=False)
    assert json.loads(command(said["vLLM"])[-1]) == {"task": "token_classify", "logit_sigma": T, "logit_mean": 0.0}
    assert "/pooling" in said["vLLM"] and said["text-embeddings-inference"].startswith("no models")
    folded, _ = entries(FITTED, task="token-classification")
    assert json.loads(command(folded["vLLM"])[-1]) == {"task": "token_classify"}


def test_images_are_served_by_transformers_and_what_takes_an_export():
    said, text = entries(FITTED, task="image-classification", architecture="resnet")
    assert said["text-embeddings-inference, vLLM"] == "no models for image-classification."
    assert said["ONNX Runtime, Triton"].startswith("yes") and said["transformers.js"].startswith("yes")
    assert "AutoModelForImageClassification" in text and "PIL" in text
    of_timm, _ = entries(FITTED, task="image-classification", architecture="resnet10t", model_type="timm_wrapper")
    assert of_timm["transformers.js"] == "does not know models of timm."
    own, text = entries(FITTED, task="image-classification", architecture="cifar_resnet8", model_type="timm_wrapper")
    assert own["Others"] == "do not know `cifar_resnet8`." and text.count("import hf_focal.networks") == 2


def test_of_architectures_that_were_not_found_in_a_server_nothing_is_promised():
    said, _ = entries(FITTED, architecture="deberta-v2")
    assert "not known to serve" in said["text-embeddings-inference, vLLM"]
    said, _ = entries(FITTED, architecture="qwen3")
    assert "not known" in said["text-embeddings-inference"] and said["vLLM"].startswith("yes")
    said, text = entries(FITTED, architecture=MODEL_TYPES[-1])
    assert set(said) == {"transformers", "Others"} and "torch.onnx" not in text


def test_adapters_and_masked_classes_have_no_lines_that_would_not_work():
    said, text = entries(FITTED, adapter=True, base_model="user/base")
    assert not said and "merge_and_unload()" in text
    said, text = entries(FITTED, masked=["other"])
    assert not said and "Servers know nothing of masked classes" in text
    assert "## Serve" not in create_model_card(About("m", "text-classification")).text


def test_the_lines_name_the_model_in_the_form_that_is_replaced_when_it_is_pushed():
    text = create_model_card(About("m", "text-classification", {**FITTED, "folded": True}), model_id="out/x").text
    assert text.count("out/x") == text.count('"out/x"') >= 5


@pytest.mark.slow
@pytest.mark.parametrize("task", ["text-classification", "token-classification", "image-classification"])
@pytest.mark.filterwarnings("ignore")  # of the exporter
def test_the_export_of_the_card_gives_the_logits_of_the_model(task, tmp_path, monkeypatch):
    import onnxruntime
    import torch
    from transformers import BertConfig, ResNetConfig, ViTImageProcessor

    from hf_focal import get_task

    monkeypatch.chdir(tmp_path)
    if task == "image-classification":
        small = {"embedding_size": 4, "hidden_sizes": [4, 8], "depths": [1, 1], "num_labels": 3}
        config, processor = ResNetConfig(**small), ViTImageProcessor(size={"height": 32, "width": 32})
        batch = {"pixel_values": torch.randn(5, 3, 32, 32)}
    else:
        processor = train_tokenizer(sentences(50))
        config = BertConfig(vocab_size=len(processor), num_labels=3, **SIZES)
        batch = dict(processor(sentences(5, seed=1), padding=True, return_tensors="pt"))
    model = get_task(task).auto_class.from_config(config).eval()
    model.save_pretrained("model")
    processor.save_pretrained("model")
    about = About("m", task, {**FITTED, "folded": True}, architecture=config.model_type)
    (code,) = re.findall(r"```py\n(.*?)```", create_model_card(about, model_id="model").text, flags=re.DOTALL)
    exec(code, {})
    session = onnxruntime.InferenceSession("model.onnx")
    wanted = {one.name for one in session.get_inputs()}
    (logits,) = session.run(["logits"], {name: batch[name].numpy() for name in wanted})
    np.testing.assert_allclose(logits, model(**batch).logits.detach().numpy(), atol=1e-5)


# ---- Spread ---------------------------------------------------------------------------------------------------------


def served_by_absolute_value(logits):
    """The softmax that text-embeddings-inference takes, in float32."""
    logits = logits.astype(np.float32)
    largest = np.take_along_axis(logits, np.abs(logits).argmax(axis=1)[:, None], axis=1)
    with np.errstate(over="ignore", invalid="ignore"):
        weights = np.exp(logits - largest)
        return weights / weights.sum(axis=1, keepdims=True)


def test_logits_that_spread_further_than_float32_takes_are_counted():
    generator = np.random.default_rng(0)
    logits = 25 * generator.normal(size=(300, 200)) - 10
    spread = spread_of(logits)
    distances = logits.max(axis=1) - logits.min(axis=1)
    assert spread == Spread(distances.max(), (distances > 88).sum(), 300)
    lost = np.isnan(served_by_absolute_value(logits)).any(axis=1)
    assert lost.any() and (distances[lost] > 88).all()  # what the warning is about, and no more than it
    assert f"{spread.above} of 300 test samples" in spread.words("test samples")
    calm = spread_of(logits, TemperatureScaling(10.0))
    assert calm.largest == pytest.approx(distances.max() / 10) and calm.words("test samples") == ""
    masked = np.array([[1.0, 3.0, -np.inf]])
    assert spread_of(masked).largest == 2


@pytest.mark.parametrize("folded", [True, False])
def test_the_card_warns_of_the_logits_that_the_checkpoint_gives(folded):
    generator = np.random.default_rng(0)
    logits = 2 * generator.normal(size=(300, 3))
    labels = (logits + generator.gumbel(size=logits.shape)).argmax(axis=1)
    fit = Fit(TemperatureScaling(0.05), "nll", 300, {}, {})
    report = make_report(Predictions(logits, labels), fit)
    record = {"temperature": 0.05, "folded": folded}
    text = create_model_card(About("m", "text-classification", record), report).text
    above = (np.ptp(logits, axis=1) / 0.05 > 88).sum()
    assert above and (f"> **Warning:** The logits of {above} of 300 test samples" in text) is folded


# ---- Harm, and the metadata -----------------------------------------------------------------------------------------


def overconfident(count=600):
    generator = np.random.default_rng(0)
    logits = 2 * generator.normal(size=(count, 4))
    return logits, (logits + generator.gumbel(size=logits.shape)).argmax(axis=1)


def test_harm_is_said_with_its_interval_and_so_is_that_there_is_none():
    logits, labels = overconfident()
    harmful = make_report(Predictions(logits, labels), Fit(TemperatureScaling(0.4), "ece", 100, {}, {}))
    text = create_model_card(About("m", calibration={"temperature": 0.4, "folded": True}), harmful).text
    rows = np.arange(len(labels))
    nll = [-log_softmax(logits / t, axis=1)[rows, labels].mean() for t in (1.0, 0.4)]
    change = harmful.changes["nll"]
    ends = " to ".join(f"{end:.4f}" for end in (-change.high, -change.low))
    assert f"**Harm:** NLL got worse by more than noise: {nll[1]:.4f} after, {nll[0]:.4f} before." in text
    assert f"The differences, with 90% intervals: NLL {nll[1] - nll[0]:.4f} ({ends})" in text
    fit = fit_temperature(3 * logits, labels)
    helpful = make_report(Predictions(3 * logits, labels), fit)
    text = create_model_card(About("m", calibration={"temperature": fit.temperature, "folded": True}), helpful).text
    assert "**Harm:** No metric got worse by more than noise." in text and helpful.headline in text


def test_all_metrics_survive_the_way_through_model_index():
    logits, labels = overconfident()
    fit = fit_temperature(3 * logits, labels)
    report = make_report(Predictions(3 * logits, labels), fit)
    about = About("m", "text-classification", {"temperature": fit.temperature, "folded": True}, dataset="user/data")
    card = ModelCard(str(create_model_card(about, report)))
    written = card.data.to_dict()["model-index"]
    name, results = model_index_to_eval_results(written)
    assert name == "m" and eval_results_to_model_index(name, results) == written
    assert all(type(one) is EvalResult and type(one.metric_value) is float for one in results)
    assert len({(one.metric_type, one.metric_name) for one in results}) == len(results) == 2 * len(report.before)
    for one in results:
        values = report.before if " before " in one.metric_name else report.after
        assert one.metric_value == values[one.metric_type]
    assert card.data.metrics == list(report.before)
    json.dumps(written, allow_nan=False)


def test_what_is_no_finite_number_is_left_out_of_the_metadata():
    logits, labels = overconfident()
    report = make_report(Predictions(logits, labels), Fit(TemperatureScaling(1.5), "nll", 100, {}, {}))
    report.after["nll"], report.intervals["before"]["ece"] = float("inf"), (0.0, float("nan"))
    card = create_model_card(About("m", calibration={"temperature": 1.5, "folded": True}), report)
    named = {one.metric_name: one for one in card.data.eval_results}
    assert "NLL after temperature" not in named and "NLL before temperature" in named
    assert "interval" not in named["ECE before temperature"].metric_args
    json.dumps(ModelCard(str(card)).data.to_dict()["model-index"], allow_nan=False)


@pytest.mark.parametrize(
    "name", ['it\'s: "x"', "a\nb: c\n---", "| <b>&amp; `x` [y](z)", "\N{PARTY POPPER} \u00e9", "# x", "- x: {{ y }}"]
)
def test_no_name_breaks_the_card(name):
    logits, labels = overconfident(60)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        report = make_report(Predictions(logits, labels, split=name), fit_temperature(logits, labels))
    record = {**FITTED, "folded": True, "loss": name, "split": name}
    facts = {"architecture": name, "seed": "42"}
    about = About(name, "text-classification", record, architecture=name, masked=[], facts=facts, dataset=name)
    made = create_model_card(about, report, model_id=name)
    again = ModelCard(str(made))
    assert again.data.to_dict() == made.data.to_dict() and again.data.eval_results[0].dataset_split == name
    assert "- **seed**: 42" in again.text and "<b>" not in re.sub("```.*?```", "", again.text, flags=re.DOTALL)
    lines = again.text.splitlines()
    assert all(line.count(" | ") == 2 for line in lines if line.startswith("| "))
    assert sum(line.startswith("# ") for line in lines) == 1
