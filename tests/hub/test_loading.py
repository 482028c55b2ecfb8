# Copyright 2026 The hf_focal authors. Licensed under the Apache License, Version 2.0.
"""`from_pretrained` and `pipeline` on local folders: divided once, whatever was done to the model; nothing unsafe."""

import copy
import json
import pickle
import subprocess
import sys

import numpy as np
import pytest
import torch
from PIL import Image
from scipy.special import softmax
from transformers import (
    AutoModelForSequenceClassification,
    BertConfig,
    BertForSequenceClassification,
    BertForTokenClassification,
    BertModel,
    BertTokenizerFast,
    ViTConfig,
    ViTForImageClassification,
    ViTImageProcessor,
)

import hf_focal
from hf_focal import (
    apply_temperature,
    focal_recalibration,
    fold_temperature,
    from_pretrained,
    pipeline,
    unfold_temperature,
)
from hf_focal.calibrators import TemperatureScaling
from hf_focal.models.apply import pending_calibrator


TEMPERATURE = 2.5
PIXELS = torch.randn(2, 3, 8, 8, generator=torch.Generator().manual_seed(0))
RECORD = {"method": "temperature", "temperature": TEMPERATURE, "folded": False, "a key of tomorrow": {"kept": [1]}}


def vit():
    torch.manual_seed(0)
    sizes = {"hidden_size": 8, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 8}
    model = ViTForImageClassification(ViTConfig(**sizes, image_size=8, patch_size=4, num_labels=3))
    torch.nn.init.normal_(model.classifier.weight)
    return model.eval()


def logits(model, **kwargs):
    with torch.no_grad():
        return model(PIXELS, **kwargs)[0 if "labels" not in kwargs else 1].numpy()


RAW = logits(vit())


@pytest.fixture
def unfolded(tmp_path):
    """A folder with raw weights, and the temperature in the config alone."""
    model = vit()
    model.config.calibration = dict(RECORD)
    model.save_pretrained(tmp_path / "model")
    ViTImageProcessor(size={"height": 8, "width": 8}).save_pretrained(tmp_path / "model")
    return tmp_path / "model"


def edit_config(folder, **changes):
    config = json.loads((folder / "config.json").read_text())
    config.update(changes)
    (folder / "config.json").write_text(json.dumps(config))


# ---- Once -----------------------------------------------------------------------------------------------------------


def test_an_unfolded_temperature_is_applied_once_and_stays_in_the_config(unfolded, tmp_path):
    model = from_pretrained(unfolded)
    assert model.config.calibration == RECORD and not model.training
    assert np.allclose(logits(model), RAW / TEMPERATURE, atol=1e-6)
    assert pending_calibrator(model) is None
    assert np.allclose(logits(apply_temperature(model)), RAW / TEMPERATURE, atol=1e-6)
    for kwargs in ({"return_dict": False}, {"return_dict": False, "labels": torch.tensor([0, 1])}):
        assert np.allclose(logits(model, **kwargs), RAW / TEMPERATURE, atol=1e-6)
    model.save_pretrained(tmp_path / "again")
    assert np.allclose(logits(ViTForImageClassification.from_pretrained(tmp_path / "again")), RAW, atol=1e-6)
    assert np.allclose(logits(from_pretrained(tmp_path / "again")), RAW / TEMPERATURE, atol=1e-6)


def test_a_folded_temperature_is_left_alone(unfolded, tmp_path):
    model = fold_temperature(vit(), TEMPERATURE)
    model.save_pretrained(tmp_path / "folded")
    for loaded in (from_pretrained(tmp_path / "folded"), apply_temperature(from_pretrained(tmp_path / "folded"))):
        assert np.allclose(logits(loaded), RAW / TEMPERATURE, atol=1e-6)


@pytest.mark.parametrize(
    "copied", [lambda model: model, copy.deepcopy, lambda model: pickle.loads(pickle.dumps(model))]
)
def test_folding_and_unfolding_a_model_that_divides_itself(unfolded, copied, tmp_path):
    model = copied(from_pretrained(unfolded))
    fold_temperature(model, TEMPERATURE)
    assert np.allclose(logits(model), RAW / TEMPERATURE, atol=1e-6)
    model.save_pretrained(tmp_path / "folded")
    stock = ViTForImageClassification.from_pretrained(tmp_path / "folded")
    assert np.allclose(logits(stock), RAW / TEMPERATURE, atol=1e-6)
    with pytest.raises(ValueError, match="calibrated already"):
        fold_temperature(model, TEMPERATURE)
    unfold_temperature(model)
    assert np.allclose(logits(model), RAW, atol=1e-5) and pending_calibrator(model) == TemperatureScaling(TEMPERATURE)


def test_focal_recalibration_is_applied_too(unfolded):
    edit_config(unfolded, calibration={**RECORD, "method": "focal", "gamma": 2.0})
    model = from_pretrained(unfolded)
    assert np.allclose(softmax(logits(model), axis=1), focal_recalibration(RAW, 2.0, TEMPERATURE), atol=1e-6)
    assert pending_calibrator(model) is None
    for gamma in (None, -1, "2", float("nan"), float("inf"), 10**400):
        edit_config(unfolded, calibration={**RECORD, "method": "focal", "gamma": gamma})
        with pytest.raises(ValueError, match=r"config.json of .* is refused: config.calibration\['gamma'\]"):
            from_pretrained(unfolded)


def test_the_trainer_counts_it_once_and_forgets_it_before_training(unfolded, tmp_path):
    model = from_pretrained(unfolded)
    pixels = torch.randn(210, 3, 8, 8, generator=torch.Generator().manual_seed(1))
    labels = torch.distributions.Categorical(logits=model(pixels).logits).sample()
    data = [{"pixel_values": row, "labels": label} for row, label in zip(pixels, labels.tolist(), strict=True)]
    args = hf_focal.CalibrationTrainingArguments(
        str(tmp_path / "out"), use_cpu=True, num_train_epochs=1, learning_rate=0.0, disable_tqdm=True,
        dataloader_pin_memory=False, save_strategy="no", report_to="none", fold_temperature=False,
    )  # fmt: skip
    trainer = hf_focal.CalibrationTrainer(model=model, args=args, train_dataset=data[:8], eval_dataset=data)
    scaled = trainer.predict(data)
    expected = hf_focal.calibration_metrics_from_logits(scaled.predictions, scaled.label_ids)
    assert scaled.metrics["test_nll"] == pytest.approx(expected["nll"])
    assert trainer.evaluate()["eval_nll"] == pytest.approx(expected["nll"])
    trainer.train()
    assert np.allclose(logits(model.eval()), RAW, atol=1e-6)
    fit = trainer.calibrate(criterion="nll")
    assert trainer.evaluate()["eval_nll"] == pytest.approx(fit.after["nll"])
    assert np.allclose(logits(model.eval()), RAW / fit.temperature, atol=1e-6)


def test_pipelines_give_calibrated_scores(unfolded, tmp_path):
    image = Image.fromarray(np.random.default_rng(0).integers(0, 255, (8, 8, 3), dtype=np.uint8))
    expected = None
    folded = fold_temperature(vit(), TEMPERATURE)
    for options in (
        {"model": str(unfolded)},
        {"task": "image-classification", "model": unfolded, "model_kwargs": {"dtype": "float32"}},
        {"model": from_pretrained(unfolded), "image_processor": str(unfolded)},
        {"model": ViTForImageClassification.from_pretrained(unfolded), "image_processor": str(unfolded)},
        {"task": "image-classification", "model": folded, "image_processor": str(unfolded)},
    ):
        scores = {row["label"]: row["score"] for row in pipeline(**options)(image)}
        expected = expected or scores
        assert scores == pytest.approx(expected, abs=1e-6)
    with pytest.raises(ValueError, match="needs a model"):
        pipeline("image-classification")


TEXT = {"vocab_size": 8, "hidden_size": 8, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 8}


@pytest.mark.parametrize(
    ("cls", "task"),
    [(BertForSequenceClassification, "text-classification"), (BertForTokenClassification, "token-classification")],
)
def test_text_models_find_their_class_and_tokenizer(tmp_path, cls, task):
    torch.manual_seed(0)
    model = cls(BertConfig(**TEXT, num_labels=3)).eval()
    model.config.calibration = dict(RECORD)
    model.save_pretrained(tmp_path)
    vocabulary = {word: index for index, word in enumerate(["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "a", "b"])}
    tokenizer = BertTokenizerFast(vocab=vocabulary)
    tokenizer.save_pretrained(tmp_path)
    with torch.no_grad():
        raw = model(**tokenizer("a b", return_tensors="pt")).logits
        loaded = from_pretrained(tmp_path)(**tokenizer("a b", return_tensors="pt")).logits
    assert torch.allclose(loaded, raw / TEMPERATURE, atol=1e-6)
    rows = pipeline(model=str(tmp_path))("a b")
    best = (raw / TEMPERATURE).softmax(-1).max(-1).values.flatten().tolist()
    found = [row["score"] for row in rows]
    assert pipeline(model=str(tmp_path)).task == task
    assert found == pytest.approx(best if len(found) == 1 else best[1:-1], abs=1e-6)


def test_another_task_can_be_asked_for_and_missing_weights_are_never_random(tmp_path):
    BertModel(BertConfig(**TEXT)).save_pretrained(tmp_path)
    with pytest.raises(ValueError, match=r"architectures \['BertModel'\]. Supported: image-classification"):
        from_pretrained(tmp_path)
    with pytest.raises(ValueError, match="lacks weights of BertForSequenceClassification.*classifier.weight"):
        from_pretrained(tmp_path, task="text-classification")


# ---- A config is input from a stranger ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "temperature",
    [0, -1.5, float("nan"), float("inf"), "2.0", [2.0], {"value": 2}, 1e300, 10**400, True, None, 1e-300],
)
def test_a_temperature_that_cannot_be_is_refused_before_weights_are_read(unfolded, temperature):
    edit_config(unfolded, calibration={**RECORD, "temperature": temperature})
    (unfolded / "model.safetensors").write_bytes(b"not read")
    for load in (from_pretrained, lambda folder: pipeline(model=folder)):
        with pytest.raises(
            ValueError, match=r"config.json of .*model is refused: config.calibration\['temperature'\]"
        ):
            load(str(unfolded))


@pytest.mark.parametrize(
    "calibration",
    [{"folded": False}, {"temperature": 2.0}, {"temperature": 2.0, "folded": "no"}, {"temperature": 2.0, "folded": 0},
     [2.0, False], "2.0", 2.0, {}],
)  # fmt: skip
def test_a_malformed_record_is_refused(unfolded, calibration):
    edit_config(unfolded, calibration=calibration)
    with pytest.raises(ValueError, match="config.json of .* is refused: config.calibration"):
        from_pretrained(unfolded)


def test_a_method_of_another_version_is_refused_where_dividing_would_not_do(unfolded):
    edit_config(unfolded, calibration={**RECORD, "method": "spline"})
    with pytest.raises(ValueError, match="config.json of .* is refused: .*'spline'"):
        from_pretrained(unfolded)


def test_a_model_that_was_never_calibrated_loads_with_a_warning(tmp_path, caplog):
    vit().save_pretrained(tmp_path)
    assert np.allclose(logits(from_pretrained(tmp_path)), RAW)
    assert "was never calibrated" in caplog.text


class Bomb:
    def __reduce__(self):
        return (open, ("exploded", "w"))


def test_no_code_of_a_repository_is_run(unfolded, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for load in (from_pretrained, lambda folder, **kwargs: pipeline(model=folder, **kwargs)):
        with pytest.raises(ValueError, match="trust_remote_code"):
            load(str(unfolded), trust_remote_code=True)
    (unfolded / "code.py").write_text("open('exploded', 'w')")
    names = {"AutoConfig": "code.Config", "AutoModelForImageClassification": "code.Model"}
    edit_config(unfolded, auto_map=names)
    assert np.allclose(logits(from_pretrained(unfolded)), RAW / TEMPERATURE, atol=1e-6)
    (unfolded / "model.safetensors").unlink()
    torch.save({"classifier.weight": Bomb()}, unfolded / "pytorch_model.bin")
    with pytest.raises(Exception, match="[Ww]eights.only"):
        from_pretrained(unfolded, weights_only=False)
    edit_config(unfolded, model_type="unheard-of")
    with pytest.raises(ValueError, match="unheard-of|custom code|trust_remote_code"):
        from_pretrained(unfolded)
    assert not (tmp_path / "exploded").exists()


def test_pickled_weights_without_code_still_load(tmp_path):
    model = vit()
    model.config.calibration = dict(RECORD)
    model.config.architectures = ["ViTForImageClassification"]
    model.config.save_pretrained(tmp_path)
    torch.save(model.state_dict(), tmp_path / "pytorch_model.bin")
    assert np.allclose(logits(from_pretrained(tmp_path)), RAW / TEMPERATURE, atol=1e-6)


# ---- Our own architectures ------------------------------------------------------------------------------------------

PLAIN = """
import sys
sys.modules["hf_focal"] = None
from transformers import AutoModelForImageClassification, pipeline
for load in (AutoModelForImageClassification.from_pretrained, lambda path: pipeline("image-classification", path)):
    try:
        load(sys.argv[1])
    except ImportError as error:
        print(error)
"""


def test_plain_transformers_names_our_architecture_and_our_loader_knows_it(tmp_path):
    model, processor = hf_focal.create_image_classifier("cifar_resnet8", ["a", "b"], from_scratch=True, image_size=32)
    fold_temperature(model, TEMPERATURE)
    model.save_pretrained(tmp_path)
    command = [sys.executable, "-c", PLAIN, str(tmp_path)]
    output = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    assert output.count("'cifar_resnet8' is not supported") == 2
    loaded = from_pretrained(tmp_path)
    assert all(torch.equal(value, loaded.state_dict()[key]) for key, value in model.state_dict().items())
    scores = pipeline(model=str(tmp_path))(Image.new("RGB", (32, 32)))
    assert sum(row["score"] for row in scores) == pytest.approx(1)


def test_a_sequence_classifier_folded_here_loads_in_plain_transformers(tmp_path):
    torch.manual_seed(0)
    model = fold_temperature(BertForSequenceClassification(BertConfig(**TEXT, num_labels=3)), TEMPERATURE)
    model.save_pretrained(tmp_path)
    stock = AutoModelForSequenceClassification.from_pretrained(tmp_path)
    ours = from_pretrained(tmp_path)
    assert torch.equal(stock(torch.tensor([[2, 5, 3]])).logits, ours(torch.tensor([[2, 5, 3]])).logits)
