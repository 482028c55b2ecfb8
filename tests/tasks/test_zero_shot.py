# Copyright 2026 The hf_focal authors. Licensed under the Apache License, Version 2.0.
"""CLIP and SigLIP, calibrated for labels and a template: against the stock pipeline, the formula and NumPy."""

import json
import re
import shlex
import sys
import warnings

import numpy as np
import pytest
import torch
import transformers
from conftest import ROOT
from datasets import ClassLabel, Dataset, DatasetDict, Features, Image, List, load_dataset
from launching import blocks, run_main
from scipy.special import expit, log_softmax, softmax
from small_models import arguments
from small_zero_shot import CIFAR, TEMPLATE, clip, pixels, rows, siglip, siglip2
from transformers import AlignConfig, AlignModel
from transformers.trainer_utils import PredictionOutput

import hf_focal
from hf_focal import (
    About,
    CalibrationTrainer,
    create_model_card,
    from_pretrained,
    get_task,
    load_predictions,
    zero_shot_classifier,
)
from hf_focal.hub.load import load_processor
from hf_focal.tasks import task_of
from hf_focal.tasks.text import train_tokenizer


NAME = "zero-shot-image-classification"
MAKERS = [clip, siglip]
HALF = 200  # images to fit on
pytestmark = pytest.mark.filterwarnings("ignore:The .* is fitted on")


@pytest.fixture(scope="module")
def photos(test_data):
    """Images of CIFAR-10."""
    files = str(test_data / "cifar10" / "test-00000-of-00001.parquet")
    found = load_dataset("parquet", data_files=files, split="train[:400]")
    return [one.convert("RGB") for one in found["img"]]


def inputs_of(processor, images):
    return processor.image_processor(images=[one.convert("RGB") for one in images], return_tensors="pt")


def raw(model, processor, images, labels=CIFAR, template=TEMPLATE):
    """The scores of the stock model, in float64."""
    options = {"padding": True}
    if isinstance(model, transformers.SiglipModel | transformers.Siglip2Model):
        options = {"padding": "max_length", "max_length": 64, "truncation": True}
    texts = processor.tokenizer([template.format(one) for one in labels], return_tensors="pt", **options)
    texts.pop("token_type_ids", None)
    with torch.no_grad():
        outputs = type(model).forward(model, **texts, **inputs_of(processor, images))
    return outputs.logits_per_image.double().numpy()


def draw(z, seed=0):
    """One label of each image, less sure than its scores."""
    return (z / 2.5 + np.random.default_rng(seed).gumbel(size=z.shape)).argmax(axis=1)


def saved(folder, make, photos, names=CIFAR, shown=CIFAR):
    """A model with its processor, and a data set of two splits with labels drawn from what it says."""
    model, processor = make(3.5)
    model.save_pretrained(folder / "model")
    processor.save_pretrained(folder / "model")
    z = raw(model, processor, photos, shown)
    features = Features({"img": Image(), "label": ClassLabel(names=list(names))})
    data = Dataset.from_dict({"img": photos, "label": draw(z).tolist()}, features=features)
    count = min(HALF, len(data) // 2)
    parts = {"validation": data.select(range(count)), "test": data.select(range(count, len(data)))}
    DatasetDict(parts).save_to_disk(str(folder / "data"))
    return model, processor, z, np.array(data["label"][:])


def calibrate(monkeypatch, folder, *flags, model="model", out="out"):
    script = str(ROOT / "scripts" / "calibrate.py")
    where = ["--model_name_or_path", str(folder / model), "--dataset_name", str(folder / "data")]
    where += ["--output_dir", str(folder / out), "--use_cpu", "true", "--disable_tqdm", "true"]
    monkeypatch.setattr(sys, "argv", [script, *where, "--hypothesis_template", TEMPLATE, *flags])
    run_main(script)
    return json.loads((folder / out / "all_results.json").read_text())


def shared(record):
    """The scale and the shift that all labels have."""
    (scale,), (shift,) = {*record["scale"]}, {*record["shift"]}
    return scale, shift


def piped(model, images, **kwargs):
    """The scores of a pipeline, in the order of the labels."""
    classifier = model if callable(model) else transformers.pipeline(NAME, str(model), **kwargs)
    found = classifier(list(images), candidate_labels=CIFAR, hypothesis_template=TEMPLATE)
    return np.array([[{one["label"]: one["score"] for one in row}[label] for label in CIFAR] for row in found])


# ---- The classifier -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("make", [*MAKERS, siglip2])
def test_its_logits_are_those_of_the_model_and_its_texts_are_encoded_once(make, photos):
    model, processor = make()
    assert task_of(model) is get_task(NAME)
    expected = raw(model, processor, photos[:40])
    calls = []
    model.text_model.register_forward_hook(lambda *_: calls.append(1))
    zero_shot_classifier(model, processor, CIFAR, TEMPLATE)
    encoded = len(calls)
    with torch.no_grad():
        logits = model(**inputs_of(processor, photos[:40])).logits.double().numpy()
    assert len(calls) == encoded <= 2  # the texts, and two of them to compare with the model
    assert logits.shape == (40, 10) and model.config.id2label == dict(enumerate(CIFAR))
    assert model.config.problem_type == (None if make is clip else "multi_label_classification")
    np.testing.assert_allclose(logits, expected, atol=1e-5 * np.abs(expected).max())
    assert expected.std(axis=1).mean() > 0.3  # of labels


@pytest.mark.parametrize(
    "labels, template, words",
    [
        (CIFAR, "a photo", r"must hold \{\} once.* such as 'This is a photo of \{\}.', got 'a photo'"),
        (CIFAR, "{} and {}", r"must hold \{\} once"),
        (CIFAR, "a photo of {label}", r"must hold \{\} once"),
        (CIFAR, "a photo of {", r"must hold \{\} once"),
        (CIFAR, None, r"must hold \{\} once.* got None"),
        (["cat", "dog", "Cat"], TEMPLATE, "holds 'cat' more than once"),
        (["cat", "dog", "cat "], TEMPLATE, "holds 'cat' more than once"),
        (["cat"], TEMPLATE, r"at least two candidate_labels, got \['cat'\]"),
        ("cat, dog", TEMPLATE, "must be a list of labels, got 'cat, dog'"),
        (["cat", 3], TEMPLATE, "must be words, got 3"),
        (["cat", " "], TEMPLATE, "must be words, got ' '"),
        (["cat", "\N{CAT FACE}", "\N{DOG FACE}"], TEMPLATE, "are the same tokens to this tokenizer"),
        (["cat", "dog " * 80], TEMPLATE, "may have 64 tokens, and these have up to 87, such as 'a photo .*': shorten"),
    ],
)
def test_labels_and_templates_that_cannot_serve_are_refused_in_one_sentence(labels, template, words):
    model, processor = clip()
    with pytest.raises(ValueError, match=words):
        zero_shot_classifier(model, processor, labels, template)
    assert not hasattr(model, "_zero_shot")


def test_models_without_a_scale_of_their_own_are_refused():
    small = {"hidden_size": 8, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 8}
    tokenizer = train_tokenizer(["a cat or a dog"])
    config = AlignConfig(
        text_config=small, vision_config={"image_size": 32, "width_coefficient": 0.1, "depth_coefficient": 0.1}
    )
    with pytest.raises(ValueError, match="AlignModel has no logit_scale of its own.*such as CLIP, SigLIP"):
        zero_shot_classifier(AlignModel(config), tokenizer, ["cat", "dog"])


# ---- Python ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("make", MAKERS)
def test_a_trainer_fits_what_numpy_finds_and_the_stock_pipeline_gives_it(make, tmp_path, photos):
    model, processor, z, labels = saved(tmp_path, make, photos)
    model = from_pretrained(tmp_path / "model")
    processor = load_processor(tmp_path / "model", NAME, model)
    zero_shot_classifier(model, processor, CIFAR, TEMPLATE)
    data = rows(inputs_of(processor, photos)["pixel_values"], labels)
    trainer = CalibrationTrainer(model=model, args=arguments(tmp_path / "run"), processing_class=processor)
    before = trainer.evaluate(data[HALF:])
    fit = trainer.calibrate(data[:HALF])
    holds = np.eye(10)[labels]
    if make is clip:
        slope = ((softmax(z / fit.temperature, axis=1) - holds) * z)[:HALF].sum()
        expected = softmax(z / fit.temperature, axis=1)
        untouched = -log_softmax(z, axis=1)[np.arange(len(z)), labels]
        assert fit.calibrator.method == "temperature" and fit.n_samples == HALF and fit.temperature > 1.5
    else:
        scale, shift = shared(fit.calibrator.to_record())
        expected = expit(scale * z + shift)
        slope = ((expected - holds) * z)[:HALF].sum()
        assert abs((expected - holds)[:HALF].sum()) < 1e-2  # of the shift
        untouched = -np.log(np.where(holds == 1, expit(z), expit(-z)))
        assert fit.calibrator.method == "platt" and fit.n_samples == HALF and len(fit.calibrator.scale) == 10
    assert abs(slope) < 2e-2  # of a sum of 300 or 3,000 scores, which are rounded to float32
    assert before["eval_nll"] == pytest.approx(untouched[HALF:].mean(), rel=1e-5)
    assert fit.helped and fit.after["nll"] < fit.before["nll"]
    assert trainer.evaluate(data[:HALF])["eval_nll"] == pytest.approx(fit.after["nll"], rel=1e-5)
    trainer.save_model()
    np.testing.assert_allclose(piped(tmp_path / "run", photos[:25]), expected[:25], atol=1e-6)
    ours = hf_focal.pipeline(model=str(tmp_path / "run"))
    np.testing.assert_allclose(piped(ours, photos[:5]), expected[:5], atol=1e-6)
    again = from_pretrained(tmp_path / "run")
    record = again.config.calibration
    assert record["candidate_labels"] == CIFAR and record["hypothesis_template"] == TEMPLATE
    assert record.get("activation") == (None if make is clip else "sigmoid")
    # Calibrated again, it starts from what the model was.
    zero_shot_classifier(again, processor, CIFAR, TEMPLATE)
    second = CalibrationTrainer(model=again, args=arguments(tmp_path / "again")).calibrate(data[:HALF])
    assert second.calibrator == fit.calibrator
    undone = hf_focal.unfold_calibrator(again).state_dict()
    known = from_pretrained(tmp_path / "model").state_dict()
    assert all(torch.equal(one, undone[name]) for name, one in known.items())


@pytest.mark.parametrize("make", MAKERS)
def test_what_stays_in_the_config_is_applied_by_our_pipeline(make, tmp_path, photos):
    model, processor, z, labels = saved(tmp_path, make, photos[:HALF])
    zero_shot_classifier(model, processor, CIFAR, TEMPLATE)
    data = rows(inputs_of(processor, photos[:HALF])["pixel_values"], labels)
    trainer = CalibrationTrainer(model=model, args=arguments(tmp_path / "run"), processing_class=processor)
    fit = trainer.calibrate(data, fold=False, guard=False)
    trainer.save_model()
    squash = (lambda x: softmax(x, axis=1)) if make is clip else expit
    np.testing.assert_allclose(piped(tmp_path / "run", photos[:5]), squash(z[:5]), atol=1e-6)
    found = fit.calibrator
    calibrated = squash(z[:5] / fit.temperature if make is clip else np.multiply(found.scale, z[:5]) + found.shift)
    applied = hf_focal.pipeline(NAME, str(tmp_path / "run"))
    np.testing.assert_allclose(piped(applied, photos[:5]), calibrated, atol=1e-6)
    loaded = from_pretrained(tmp_path / "run")
    with pytest.raises(ValueError, match="pipeline needs image_processor=... and tokenizer=... beside a model"):
        hf_focal.pipeline(NAME, loaded)
    whole = hf_focal.pipeline(NAME, loaded, processor=processor)
    np.testing.assert_allclose(piped(whole, photos[:5]), calibrated, atol=1e-6)


@pytest.mark.parametrize("make", MAKERS)
def test_methods_for_single_classes_and_training_are_refused(make, tmp_path):
    model, processor = make()
    with pytest.raises(ValueError, match="classifies images once it has labels: call hf_focal.zero_shot_classifier"):
        CalibrationTrainer(model=model, args=arguments(tmp_path))
    zero_shot_classifier(model, processor, CIFAR)
    data = rows(pixels(8), range(8))
    trainer = CalibrationTrainer(model=model, args=arguments(tmp_path), train_dataset=data, eval_dataset=data)
    for method in ("vector", "matrix", "bias", "focal"):
        with pytest.raises(ValueError, match=f"calibrator='{method}' cannot be: a .* one logit_scale .* Use '"):
            trainer.calibrate(method=method)
    with pytest.raises(ValueError, match=f"{type(model).__name__} has no head to train.*create_image_classifier"):
        trainer.train()
    if make is siglip:  # a map of each label, which nothing of the model could hold
        scores = np.random.default_rng(0).normal(size=(400, 10))
        fits = (np.random.default_rng(1).random(scores.shape) < expit(scores * np.linspace(0.3, 3, 10))).astype(int)
        known = PredictionOutput(scores, fits, {})
        for fold in (True, False):
            with pytest.raises(ValueError, match="one logit_scale and one logit_bias for all labels.*shared=True"):
                trainer.calibrate(predictions=known, shared=False, fold=fold)
        assert trainer.calibrate(predictions=known).calibrator.kept["shared"] == tuple(range(10))
    assert trainer.method_for("auto") == ("temperature" if make is clip else "platt")
    assert trainer.method_for("none") == "none"


def test_a_class_an_image_says_of_each_label_whether_it_fits_and_no_class_says_nothing(tmp_path):
    model, processor = siglip()
    zero_shot_classifier(model, processor, CIFAR)
    data = rows(pixels(6), [0, -100, 9, 3, -100, 1])
    trainer = CalibrationTrainer(model=model, args=arguments(tmp_path))
    seen = trainer.predictions_of(data)
    assert seen.logits.shape == (4, 10) and seen.is_sigmoid and seen.groups is None
    np.testing.assert_array_equal(seen.labels, np.eye(10)[[0, 9, 3, 1]])
    told = np.eye(10)[[0, 9]]
    told[:, 4], told[0, 5] = 1, -100  # several labels of an image, and one of which it is not known
    several = [{**row, "labels": torch.tensor(one)} for row, one in zip(data, told, strict=False)]
    np.testing.assert_array_equal(trainer.predictions_of(several).labels, told)
    with pytest.raises(ValueError, match="chooses from 10 candidate_labels, and the data have the label 10"):
        trainer.evaluate(rows(pixels(2), [3, 10]))
    trainer = CalibrationTrainer(model=zero_shot_classifier(*clip(), CIFAR), args=arguments(tmp_path))
    with pytest.raises(ValueError, match="say of each of the 10 outputs whether it is right.*one softmax"):
        trainer.evaluate(several)


# ---- The command ----------------------------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize("make", MAKERS)
def test_the_command_calibrates_for_the_classes_of_the_data(make, tmp_path, photos, monkeypatch, capsys):
    names = [one.upper() for one in CIFAR]
    _, _, z, labels = saved(tmp_path, make, photos, names)
    results = calibrate(monkeypatch, tmp_path, "--candidate_labels", *CIFAR[::-1])
    printed = " ".join(capsys.readouterr().out.split())
    record = json.loads((tmp_path / "out" / "config.json").read_text())["calibration"]
    assert record["candidate_labels"] == CIFAR[::-1] and record["folded"] is True
    if make is clip:
        expected = softmax(z / results["temperature"], axis=1)
        assert "test images before after" in printed
    else:
        scale, shift = shared(record)
        expected = expit(scale * z + shift)
        assert "test images before after" in printed and "airplane" in printed
    assert abs(((expected - np.eye(10)[labels]) * z)[:HALF].sum()) < 2e-2
    np.testing.assert_allclose(piped(tmp_path / "out", photos[:10]), expected[:10], atol=1e-6)
    card = (tmp_path / "out" / "README.md").read_text()
    (snippet,) = re.findall(r"```python\n(.*?)```", card, flags=re.DOTALL)
    photos[0].save(tmp_path / "image.png")
    monkeypatch.chdir(tmp_path)
    exec(snippet, {})  # noqa: S102  (as whoever reads the card would)
    scores = [float(one) for one in re.findall("'score': ([0-9.]+)", capsys.readouterr().out)]
    np.testing.assert_allclose(scores, np.sort(expected[0])[::-1], atol=1e-6)
    assert "It was measured for 10 labels in the template 'a photo of a {}.'" in card
    assert f", 10 {'classes' if make is clip else 'labels, a sigmoid each'}, images" in card
    assert ("sigmoid of its own" in card) is (make is siglip)
    assert ("a softmax over the labels" in card) is (make is clip)
    assert f"folded into `logit_scale`{'' if make is clip else ' and `logit_bias`'}." in card


def test_labels_that_are_not_the_classes_and_flags_that_cannot_be_are_refused(tmp_path, photos, monkeypatch):
    model, processor, *_ = saved(tmp_path, clip, photos[:20])
    for flags, words in (
        (["--candidate_labels", *CIFAR[1:]], "does not know the classes 'airplane'.*among --candidate_labels"),
        (["--hypothesis_template", "a photo"], r"must hold \{\} once"),
        (["--candidate_labels", *CIFAR, "Cat"], "holds 'cat' more than once"),
        (["--calibrator", "matrix"], "calibrator='matrix' cannot be"),
    ):
        with pytest.raises(ValueError, match=words) as error:
            calibrate(monkeypatch, tmp_path, *flags)
        assert "config.json" not in str(error.value)
    assert not (tmp_path / "out" / "config.json").exists()
    with pytest.raises(ValueError, match="are numbers.*name them in their order by --candidate_labels"):
        get_task(NAME).class_names_for(model, processor, ["0", "1"])


def test_several_labels_an_image_are_for_a_siglip_alone(tmp_path, photos, monkeypatch):
    saved(tmp_path, siglip, photos[:80])
    model, processor = clip()
    model.save_pretrained(tmp_path / "clip")
    processor.save_pretrained(tmp_path / "clip")
    data = DatasetDict.load_from_disk(str(tmp_path / "data"))
    lists = {split: [[one, (one + 1) % 10] for one in part["label"]] for split, part in data.items()}
    features = Features({"img": Image(), "label": List(ClassLabel(names=CIFAR))})
    parts = {split: part.remove_columns("label").add_column("label", lists[split]) for split, part in data.items()}
    DatasetDict({split: part.cast(features) for split, part in parts.items()}).save_to_disk(str(tmp_path / "lists"))
    flags = ["--dataset_name", str(tmp_path / "lists"), "--temperature_guard", "false"]
    calibrate(monkeypatch, tmp_path, *flags)
    record = from_pretrained(tmp_path / "out").config.calibration
    assert shared(record)[0] > 0 and record["n_samples"] == 40 and record["candidate_labels"] == CIFAR
    seen = load_predictions(tmp_path / "out" / "predictions.safetensors")[0]["test"]
    assert (seen.labels.sum(axis=1) == 2).all() and seen.labels.shape == (40, 10)
    assert np.flatnonzero(seen.labels[0]).tolist() == sorted(lists["test"][0])
    with pytest.raises(ValueError, match="lists of labels, and the model one softmax over its 10 classes"):
        calibrate(monkeypatch, tmp_path, *flags, model="clip", out="other")


def test_other_models_have_classes_of_their_own(tmp_path):
    model, processor = hf_focal.create_image_classifier("test_vit", ["a", "b"], from_scratch=True, image_size=32)
    task = get_task("image-classification")
    assert task.class_names_for(model, processor, None) == ["a", "b"]
    with pytest.raises(ValueError, match="candidate_labels and hypothesis_template are for zero-shot models"):
        task.class_names_for(model, processor, None, ["a", "b"])


@pytest.mark.slow
def test_data_that_are_streamed_give_the_same(tmp_path, photos, monkeypatch):
    saved(tmp_path, siglip, photos)
    calibrate(monkeypatch, tmp_path)
    for split in ("validation", "test"):
        (tmp_path / "files").mkdir(exist_ok=True)
        data = DatasetDict.load_from_disk(str(tmp_path / "data"))[split]
        data.to_parquet(str(tmp_path / "files" / f"{split}.parquet"))
    calibrate(monkeypatch, tmp_path, "--streaming", "--dataset_name", str(tmp_path / "files"), out="streamed")
    whole, streamed = (shared(from_pretrained(tmp_path / out).config.calibration) for out in ("out", "streamed"))
    np.testing.assert_allclose(streamed, whole, rtol=1e-6)


@pytest.mark.slow
def test_the_page_of_the_docs_runs(tmp_path, photos, monkeypatch, capsys):
    page = [ROOT / "docs" / "zero_shot.md"]
    _, _, z, labels = saved(tmp_path, clip, photos)
    data = DatasetDict.load_from_disk(str(tmp_path / "data"))
    for split in ("validation", "test"):
        data[split].to_parquet(str(tmp_path / "images" / f"{split}.parquet"))
    data["validation"].to_parquet(str(tmp_path / "images" / "train.parquet"))  # which is not looked at
    places = {"path/to/clip": str(tmp_path / "model"), "path/to/images": str(tmp_path / "images")}
    monkeypatch.chdir(tmp_path)
    photos[0].save("image.png")
    (command,) = blocks("sh", page)
    words = [places.get(word, word) for word in shlex.split(command)]
    assert words[:3] == ["accelerate", "launch", "scripts/calibrate.py"]
    monkeypatch.setattr(sys, "argv", [words[2], *words[3:], "--use_cpu", "true", "--disable_tqdm", "true"])
    run_main(str(ROOT / words[2]))
    (found,) = (tmp_path / "outputs").iterdir()
    use, make = blocks("py", page)
    for name, place in places.items():
        make = make.replace(name, place)
    with warnings.catch_warnings():  # of memory that is pinned for no accelerator
        warnings.simplefilter("ignore")
        exec(make, {})  # noqa: S102
    exec(use, {})  # noqa: S102
    first, second = (from_pretrained(folder).logit_scale.item() for folder in (found, "calibrated-clip"))
    assert first == second
    expected = softmax(z[0] / np.exp(3.5 - first))
    scores = [float(one) for one in re.findall("'score': ([0-9.]+)", capsys.readouterr().out)]
    np.testing.assert_allclose(scores, np.sort(expected)[::-1], atol=1e-6)


# ---- The card, and the Hub ------------------------------------------------------------------------------------------


def test_a_card_of_many_labels_reads_them_from_the_config_and_trusts_no_record():
    labels = [f"kind {index}" for index in range(100)]
    record = {"temperature": 2.0, "folded": True, "candidate_labels": labels, "hypothesis_template": "a {}"}
    card = str(create_model_card(About("m", NAME, record)))
    assert (
        'candidate_labels=classifier.model.config.calibration["candidate_labels"], hypothesis_template="a {}"' in card
    )
    assert "measured for 100 labels" in card and "kind 99" not in card
    for strange in ({"candidate_labels": 3}, {"candidate_labels": ["a", ["b"]]}, {"hypothesis_template": "`|\n# x"}):
        plain = str(create_model_card(About("m", NAME, {**record, **strange})))
        assert 'candidate_labels=["a cat", "a dog"])' in plain and "was measured for" not in plain
    sly = {**record, "candidate_labels": ['"); import os #', "```\n# not mine"]}
    (snippet,) = re.findall(r"```python\n(.*?)\n```\n", str(create_model_card(About("m", NAME, sly))), flags=re.DOTALL)
    compile(snippet, "card", "exec")
    assert len(snippet.strip().splitlines()) == 4
