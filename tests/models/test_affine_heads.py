# Copyright 2026 The hf_focal authors. Licensed under the Apache License, Version 2.0.
"""Affine maps in heads of every kind: what they make of the logits, and what a head is again once they are undone."""

import copy
import json
import pickle
import warnings

import numpy as np
import pytest
import torch
from peft import LoraConfig, PeftModel, get_peft_model
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from scipy.special import softmax
from small_models import NUM_LABELS, arguments, bert, samples
from transformers import (
    AutoModelForSequenceClassification,
    BertTokenizerFast,
    DeiTConfig,
    DeiTForImageClassificationWithTeacher,
    GPT2Config,
    GPT2ForSequenceClassification,
    TextClassificationPipeline,
)

from hf_focal import (
    About,
    CalibrationTrainer,
    UnfoldableError,
    calibrator_of,
    create_image_classifier,
    create_model_card,
    fit_calibrator,
    fold_calibrator,
    from_pretrained,
    pipeline,
    unfold_calibrator,
)
from hf_focal.calibrators import BiasCorrection, MatrixScaling, PriorShift, TemperatureScaling, VectorScaling
from hf_focal.models.apply import apply_temperature, pending_calibrator
from hf_focal.models.fold import put_on_top
from hf_focal.models.original import ORIGINAL_HEAD


pytestmark = pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing` is deprecated")  # PEFT reads it
K = NUM_LABELS
DRAW = np.random.default_rng(0)
A, C = np.eye(K) + 0.2 * DRAW.normal(size=(K, K)), DRAW.normal(size=K)
SOURCE, TARGET = (0.2,) * K, (0.1, 0.1, 0.1, 0.3, 0.4)
MATRIX = MatrixScaling(1.7, tuple(map(tuple, A.tolist())), tuple(C.tolist()))
VECTOR = VectorScaling(1.7, tuple(np.diag(A).tolist()), tuple(C.tolist()))
FACTORS = VectorScaling(1.7, tuple(np.diag(A).tolist()), ())
MIXED = MatrixScaling(1.7, MATRIX.matrix, ())
PRIOR = PriorShift(SOURCE, TARGET)
# What each does to logits, in plain NumPy.
MAPS = {
    MATRIX: lambda z: z / 1.7 @ A.T + C,
    VECTOR: lambda z: z / 1.7 * np.diag(A) + C,
    FACTORS: lambda z: z / 1.7 * np.diag(A),
    MIXED: lambda z: z / 1.7 @ A.T,
    BiasCorrection(VECTOR.shift): lambda z: z + C,
    TemperatureScaling(1.7): lambda z: z / 1.7,
    PRIOR: lambda z: z + np.log(TARGET) - np.log(SOURCE),
}


class Convolution(torch.nn.Module):
    """A convolution of 1 x 1 whose outputs, averaged, are the logits."""

    def __init__(self):
        super().__init__()
        self.last = torch.nn.Conv2d(8, K, 1)

    def forward(self, features):
        return self.last(features.reshape(len(features), 8, 2, 2)).mean(dim=(2, 3))


class Two(torch.nn.Module):
    """Two linear layers whose outputs are summed or averaged; the second one may lack a bias."""

    def __init__(self, weight, bias=True):
        super().__init__()
        self.first, self.second, self.weight = torch.nn.Linear(32, K), torch.nn.Linear(32, K, bias=bias), weight

    def forward(self, features):
        return self.weight * (self.first(features) + self.second(features))


def with_head(head):
    model = bert()
    model.classifier = head
    return model


def deit():
    small = {"hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 32}
    return DeiTForImageClassificationWithTeacher(DeiTConfig(image_size=16, patch_size=8, num_labels=K, **small))


def timm_deit():
    return create_image_classifier(
        "deit_tiny_distilled_patch16_224", [*"abcde"], from_scratch=True, image_size=32, embed_dim=24, depth=1
    )[0]


def gpt2():
    return GPT2ForSequenceClassification(
        GPT2Config(vocab_size=40, n_embd=32, n_layer=1, n_head=2, num_labels=K, pad_token_id=0)
    )


def lora():
    return get_peft_model(bert(), LoraConfig(task_type="SEQ_CLS", r=2, init_lora_weights=False))


HEADS = {
    "linear": bert,
    "convolution": lambda: with_head(Convolution()),
    "averaged": deit,
    "summed": lambda: with_head(Two(1.0)),
    "averaged, one bias": lambda: with_head(Two(0.5, bias=False)),
    "no bias": gpt2,
    "peft": lora,
}


def make(kind, dtype=torch.float32):
    torch.manual_seed(0)
    model = HEADS[kind]().eval()
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.shape[:1] == (K,):
                parameter.normal_()
    return model.to(dtype)


def logits_of(model):
    generator = torch.Generator().manual_seed(1)
    base = model.get_base_model() if isinstance(model, PeftModel) else model
    if base.main_input_name == "input_ids":
        inputs = {"input_ids": torch.randint(3, 40, (8, 7), generator=generator)}
    else:
        inputs = {"pixel_values": torch.randn(8, 3, 16, 16, generator=generator).to(model.dtype)}
    with torch.no_grad():
        return model(**inputs).logits.double().numpy()


def weights_of(model):
    return {key: value.clone() for key, value in model.state_dict().items()}


def assert_same(model, weights):
    assert all(torch.equal(value, weights[key]) for key, value in model.state_dict().items())


# ---- Every kind of head ---------------------------------------------------------------------------------------------


HALF = torch.bfloat16


@pytest.mark.parametrize(
    ("kind", "dtype"), [*((kind, one) for kind in HEADS for one in (torch.float32, HALF)), ("linear", torch.float16)]
)
def test_a_head_does_any_map_and_is_again_what_it_was(kind, dtype):
    model = make(kind, dtype)
    before, weights = logits_of(model), weights_of(model)
    for calibrator in (MIXED, FACTORS) if kind == "no bias" else (MATRIX, VECTOR, FACTORS, PRIOR):
        fold_calibrator(model, calibrator)
        expected = MAPS[calibrator](before)
        off = np.abs(logits_of(model) - expected).max()
        assert off <= 8 * torch.finfo(dtype).eps * np.abs(expected).max()
        assert np.abs(expected - before).max() > 1000 * off / 8 or dtype != torch.float32
        assert list(model.state_dict()) == list(weights)  # no parameter and no buffer beside those of the class
        unfold_calibrator(model)
        assert_same(model, weights)
        assert pending_calibrator(model) == calibrator and model.config.calibration["folded"] is False
        del model.config.calibration


def test_the_heads_of_a_distilled_timm_network_take_a_matrix():
    model = timm_deit().eval()
    pixels = torch.randn(2, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        for head in (model.timm_model.head, model.timm_model.head_dist):
            head.weight.normal_(), head.bias.normal_()
        weights, before = weights_of(model), model(pixels).logits.double().numpy()
        fold_calibrator(model, MATRIX)
        assert np.abs(model(pixels).logits.numpy() - MAPS[MATRIX](before)).max() < 1e-5
    unfold_calibrator(model)
    assert_same(model, weights)


def test_a_shift_is_refused_without_a_bias_and_kept_in_the_config():
    model = make("no bias")
    before, weights = logits_of(model), weights_of(model)
    for calibrator in (MATRIX, VECTOR, PRIOR):
        with pytest.raises(UnfoldableError, match="has no bias, which a shift needs.*fold=False"):
            fold_calibrator(model, calibrator)
    fold_calibrator(model, FACTORS)
    folded = weights_of(model)
    with pytest.raises(UnfoldableError, match="has no bias"):
        put_on_top(model, PRIOR)
    assert_same(model, folded)
    assert model.config.calibration["folded"] and "then" not in model.config.calibration
    put_on_top(model, PRIOR, fold=False)
    assert_same(model, weights)
    apply_temperature(model)
    assert np.abs(logits_of(model) - MAPS[PRIOR](MAPS[FACTORS](before))).max() < 1e-5


def test_a_fit_tells_the_record_of_its_data():
    generator = np.random.default_rng(0)
    logits = 1.5 * generator.normal(size=(500, K))
    labels = (logits + generator.gumbel(size=logits.shape)).argmax(axis=1)
    fit = fit_calibrator(3 * logits, labels, method="temperature")
    model = fold_calibrator(make("linear"), fit)
    assert {key: model.config.calibration[key] for key in ("criterion", "n_samples", "folded")} == {
        "criterion": "nll", "n_samples": 500, "folded": True
    }  # fmt: skip
    unchanged = fit_calibrator(logits, labels, method="temperature")
    model = make("linear")
    weights = weights_of(model)
    record = fold_calibrator(model, unchanged, record={"split": "dev"}).config.calibration
    assert record["helped"] is False and record["why"] == unchanged.why and record["split"] == "dev"
    assert_same(model, weights)
    with pytest.raises(ValueError, match="takes a Fit or a Calibrator, got 1.5"):
        fold_calibrator(make("linear"), 1.5)


def test_the_card_of_a_prior_on_top_of_nothing_that_helped_tells_of_the_prior():
    model = put_on_top(make("linear"), TemperatureScaling(1.0), facts={"helped": False, "why": "T stays 1."})
    card = [str(create_model_card(About("m", "text-classification", model.config.calibration)))]
    put_on_top(model, PRIOR)
    card.append(str(create_model_card(About("m", "text-classification", model.config.calibration))))
    assert ["so they are as they were trained" in one for one in card] == [True, False]
    assert "prior" in card[1] and "folded into the classification head" in card[1]


# ---- The file -------------------------------------------------------------------------------------------------------


def saved(tmp_path, calibrator=MATRIX, dtype=torch.float32):
    model = make("linear", dtype)
    weights = weights_of(model)
    fold_calibrator(model, calibrator).save_pretrained(tmp_path)
    return model, weights


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16], ids=str)
def test_what_the_head_was_is_saved_and_found_by_whoever_loads(tmp_path, dtype):
    model, weights = saved(tmp_path / "one", dtype=dtype)
    assert {path.name for path in (tmp_path / "one").iterdir()} == {"config.json", "model.safetensors", ORIGINAL_HEAD}
    assert (tmp_path / "one" / ORIGINAL_HEAD).stat().st_size < 2000
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        stock, info = AutoModelForSequenceClassification.from_pretrained(tmp_path / "one", output_loading_info=True)
        ours = from_pretrained(tmp_path / "one")
    assert not any(info.values()) and stock.dtype == ours.dtype == dtype
    for loaded in (stock, ours):
        assert np.array_equal(logits_of(loaded.eval()), logits_of(model))
        assert_same(unfold_calibrator(copy.deepcopy(loaded)), weights)
    ours.save_pretrained(tmp_path / "two")  # it has the file to give on
    assert (tmp_path / "two" / ORIGINAL_HEAD).read_bytes() == (tmp_path / "one" / ORIGINAL_HEAD).read_bytes()
    assert_same(unfold_calibrator(AutoModelForSequenceClassification.from_pretrained(tmp_path / "two")), weights)
    unfold_calibrator(ours).save_pretrained(tmp_path / "two")
    assert not (tmp_path / "two" / ORIGINAL_HEAD).exists()


def test_loaded_in_another_precision_it_is_that_of_the_head_before(tmp_path):
    _, weights = saved(tmp_path)
    half = from_pretrained(tmp_path, dtype=torch.bfloat16)
    half.save_pretrained(tmp_path / "half")
    for loaded in (half, from_pretrained(tmp_path / "half")):
        assert_same(unfold_calibrator(loaded), {key: value.bfloat16() for key, value in weights.items()})


def test_copies_and_pickles_keep_it(tmp_path):
    model, weights = saved(tmp_path)
    for index, twin in enumerate((copy.deepcopy(model), pickle.loads(pickle.dumps(model)))):
        with torch.no_grad():
            twin.bert.pooler.dense.weight.zero_()
        twin.save_pretrained(tmp_path / str(index))  # the twin, not the model that it was made of
        assert not load_file(tmp_path / str(index) / "model.safetensors")["bert.pooler.dense.weight"].any()
        assert (tmp_path / str(index) / ORIGINAL_HEAD).is_file()
        assert torch.equal(unfold_calibrator(twin).classifier.weight, weights["classifier.weight"])


@pytest.mark.parametrize(
    "calibrator", [VECTOR, MATRIX, PRIOR, BiasCorrection(VECTOR.shift)], ids=lambda one: one.method
)
def test_without_the_file_all_but_a_temperature_says_so(tmp_path, calibrator):
    saved(tmp_path, calibrator)
    (tmp_path / ORIGINAL_HEAD).unlink()
    model = from_pretrained(tmp_path)
    weights = weights_of(model)
    with pytest.raises(ValueError, match=r"undone by the weights .* had before.*\.head_before_calib.*Fetch") as error:
        unfold_calibrator(model)
    assert str(tmp_path) in str(error.value) and "\n" not in str(error.value)
    with pytest.raises(ValueError, match="Fetch that file"):
        put_on_top(model, PRIOR)
    assert_same(model, weights)
    assert model.config.calibration["folded"] is True


def test_without_the_file_a_temperature_is_undone_by_dividing(tmp_path):
    _, weights = saved(tmp_path, TemperatureScaling(1.7))
    (tmp_path / ORIGINAL_HEAD).unlink()
    head = unfold_calibrator(AutoModelForSequenceClassification.from_pretrained(tmp_path)).classifier.weight
    assert torch.allclose(head, weights["classifier.weight"], rtol=1e-6)


def change(path, edit):
    """Write the file anew, with its tensors and its metadata edited."""
    with safe_open(path, "pt") as file:
        tensors, metadata = {key: file.get_tensor(key) for key in file.keys()}, file.metadata()
    edit(tensors, metadata)
    save_file(tensors, path, metadata)


WEIGHT, BIAS = "before_calibration.classifier.weight", "before_calibration.classifier.bias"
EDITS = {
    "stale": lambda t, m: t.update({WEIGHT: 2 * t[WEIGHT]}),
    "not a number": lambda t, m: t.update({WEIGHT: t[WEIGHT] * torch.nan}),
    "another shape": lambda t, m: t.update({WEIGHT: torch.zeros(K, 33)}),
    "another layer": lambda t, m: t.update({"before_calibration.bert.pooler.dense.weird": torch.zeros(1)}),
    "no prefix": lambda t, m: t.update({"classifier.weight": torch.zeros(K, 32)}),
    "a part": lambda t, m: t.pop(BIAS),
    "whole numbers": lambda t, m: t.update({BIAS: torch.zeros(K, dtype=torch.int64)}),
    "a share": lambda t, m: m.update(hf_focal='{"share": 0.5}'),
    "a share that is none": lambda t, m: m.update(hf_focal='{"share": "1.0"}'),
    "no share": lambda t, m: m.clear() or m.update(hf_focal="[" * 100_000),
    "empty": lambda t, m: t.clear(),
}


@pytest.mark.parametrize("edit", EDITS)
def test_a_file_that_is_not_of_this_head_is_not_used(tmp_path, caplog, edit):
    saved(tmp_path)
    change(tmp_path / ORIGINAL_HEAD, EDITS[edit])
    for load in (from_pretrained, AutoModelForSequenceClassification.from_pretrained):
        model = load(tmp_path).eval()
        weights, before = weights_of(model), logits_of(model)
        with pytest.raises(ValueError, match="undone by the weights"):
            unfold_calibrator(model)
        assert_same(model, weights)
        assert np.array_equal(logits_of(model), before)
    assert edit == "empty" or f"{ORIGINAL_HEAD} is not used" in caplog.text


@pytest.mark.parametrize("data", [b"", b"\xff" * 64, (1 << 62).to_bytes(8, "little") + b"{}", "claim"])
def test_a_file_that_claims_more_than_it_has_takes_no_memory(tmp_path, caplog, data):
    saved(tmp_path)
    if data == "claim":
        header = {WEIGHT: {"dtype": "F32", "shape": [10**6, 10**6], "data_offsets": [0, 4 * 10**12]}}
        text = json.dumps(header).encode()
        data = len(text).to_bytes(8, "little") + text
    (tmp_path / ORIGINAL_HEAD).write_bytes(data)
    model = from_pretrained(tmp_path)
    assert f"{ORIGINAL_HEAD} is not used" in caplog.text
    with pytest.raises(ValueError, match="undone by the weights"):
        unfold_calibrator(model)


def test_of_two_models_in_one_folder_the_later_one_counts(tmp_path):
    saved(tmp_path)
    other = make("linear")
    other.classifier.weight.data.mul_(3)
    weights = weights_of(other)
    fold_calibrator(other, VECTOR).save_pretrained(tmp_path)
    assert_same(unfold_calibrator(from_pretrained(tmp_path)), weights)


# ---- Adapters -------------------------------------------------------------------------------------------------------


def test_an_adapter_has_it_beside_its_weights_and_a_merged_model_too(tmp_path):
    base = bert()
    base.save_pretrained(tmp_path / "base")
    torch.manual_seed(1)
    model = AutoModelForSequenceClassification.from_pretrained(tmp_path / "base")
    model = get_peft_model(model, LoraConfig(task_type="SEQ_CLS", r=2, init_lora_weights=False)).eval()
    head = model.base_model.model.classifier.modules_to_save.default
    weight = head.weight.clone()
    trainer = CalibrationTrainer(model, arguments(tmp_path / "adapter"))
    fold_calibrator(model, MATRIX)
    trainer.save_model()
    model.save_pretrained(tmp_path / "by hand")
    for folder in ("adapter", "by hand"):
        assert (tmp_path / folder / ORIGINAL_HEAD).is_file()
    loaded = from_pretrained(tmp_path / "adapter")
    assert np.abs(logits_of(loaded) - logits_of(model)).max() < 1e-6
    unfold_calibrator(loaded)
    assert torch.equal(loaded.classifier.modules_to_save["default"].weight, weight)
    merged = model.merge_and_unload()
    merged.save_pretrained(tmp_path / "merged")
    again = AutoModelForSequenceClassification.from_pretrained(tmp_path / "merged")
    assert torch.equal(unfold_calibrator(again).classifier.weight, weight)


# ---- What composes --------------------------------------------------------------------------------------------------


def test_a_prior_on_top_composes_and_is_taken_off_in_order(tmp_path):
    model = make("linear")
    before, weights = logits_of(model), weights_of(model)
    fold_calibrator(model, MATRIX, record={"criterion": "nll", "n_samples": 9})
    folded = weights_of(model)
    put_on_top(model, PRIOR, facts={"estimated": True})
    expected = MAPS[PRIOR](MAPS[MATRIX](before))
    assert np.abs(logits_of(model) - expected).max() < 1e-5
    record = model.config.calibration
    assert (record["method"], record["n_samples"], record["folded"]) == ("matrix", 9, True)
    assert [(step["method"], step["estimated"]) for step in record["then"]] == [("prior", True)]
    model.save_pretrained(tmp_path)
    stock = AutoModelForSequenceClassification.from_pretrained(tmp_path).eval()
    assert np.array_equal(logits_of(stock), logits_of(model))
    assert np.abs(softmax(logits_of(stock), 1) - calibrator_of(record).probabilities(before)).max() < 1e-6
    unfold_calibrator(stock, only_last=True)
    assert_same(stock, folded)  # bit for bit the model before the prior
    assert stock.config.calibration == fold_calibrator(make("linear"), MATRIX, record={
        "criterion": "nll", "n_samples": 9}).config.calibration  # fmt: skip
    unfold_calibrator(stock)
    assert_same(stock, weights)
    unfold_calibrator(model)
    assert_same(model, weights)
    assert [step["estimated"] for step in model.config.calibration["then"]] == [True]
    fold_calibrator(model, calibrator_of(model.config.calibration))
    assert [step["estimated"] for step in model.config.calibration["then"]] == [True]
    assert np.abs(logits_of(model) - expected).max() < 1e-5


def test_what_is_on_top_of_nothing_or_of_what_waits(tmp_path):
    model = put_on_top(make("linear"), PRIOR)
    assert model.config.calibration["folded"] and model.config.calibration["method"] == "prior"
    unfold_calibrator(model, only_last=True)
    assert_same(model, weights_of(make("linear")))
    assert not hasattr(model.config, "calibration")
    with pytest.raises(ValueError, match="never calibrated"):
        unfold_calibrator(model, only_last=True)
    waiting = put_on_top(put_on_top(model, TemperatureScaling(1.7), fold=False), PRIOR)
    assert waiting.config.calibration["folded"] is False
    assert_same(waiting, weights_of(make("linear")))
    before = logits_of(waiting)
    assert np.abs(logits_of(apply_temperature(waiting)) - MAPS[PRIOR](before / 1.7)).max() < 1e-5
    unfold_calibrator(waiting, only_last=True)
    assert np.abs(logits_of(waiting) - before / 1.7).max() < 1e-5  # and goes on applying what is left
    put_on_top(waiting, PRIOR, fold=True)
    assert waiting.config.calibration["folded"] is True
    assert np.abs(logits_of(waiting) - MAPS[PRIOR](before / 1.7)).max() < 1e-5


@pytest.mark.parametrize("rest", [None, True, False], ids=["nothing", "folded", "waiting"])
@pytest.mark.parametrize("fold", [None, False])
def test_what_is_for_other_classes_changes_nothing(rest, fold):
    model = make("linear")
    if rest is not None:
        put_on_top(model, MATRIX, fold=rest)
    weights, record = weights_of(model), copy.deepcopy(getattr(model.config, "calibration", None))
    with pytest.raises(ValueError, match="classes"):
        put_on_top(model, PriorShift((0.5, 0.5), (0.4, 0.6)), fold=fold)
    assert_same(model, weights)
    assert getattr(model.config, "calibration", None) == record
    if rest:
        unfold_calibrator(model)
        assert_same(model, weights_of(make("linear")))


def test_calibrating_again_replaces_all_bit_for_bit(overconfident, tmp_path):
    model, data = overconfident
    weights = weights_of(model)
    trainer = CalibrationTrainer(model, arguments(tmp_path))
    first = trainer.calibrate(data, method="matrix", guard=False)
    folded = weights_of(model)
    put_on_top(model, PRIOR)
    again = trainer.calibrate(data, method="matrix", guard=False)
    assert again.calibrator == first.calibrator
    assert_same(model, folded)
    assert "then" not in model.config.calibration
    put_on_top(model, PRIOR)
    trainer.forget_temperature("Training", data)
    assert_same(model, weights)
    assert not hasattr(model.config, "calibration")


def test_a_checkpoint_of_a_trainer_has_it(overconfident, tmp_path):
    model, data = overconfident
    weights = weights_of(model)
    trainer = CalibrationTrainer(model, arguments(tmp_path), eval_dataset=data)
    trainer.calibrate(method="vector", guard=False)
    trainer.create_optimizer_and_scheduler(1)
    trainer._save_checkpoint(model, None)
    trainer.save_model()
    for folder in (tmp_path / "checkpoint-0", tmp_path):
        assert_same(unfold_calibrator(from_pretrained(folder)), weights)
    trainer.calibrate(method="vector", guard=False, fold=False)
    trainer.save_model()
    assert not (tmp_path / ORIGINAL_HEAD).exists()  # of the model that was replaced


# ---- Heads without a bias, and in half precision --------------------------------------------------------------------


@pytest.mark.parametrize("method", ["vector", "matrix", "auto"])
def test_a_head_without_a_bias_is_fitted_without_an_intercept(method, tmp_path):
    torch.manual_seed(0)
    model, data = make("no bias"), samples("bert", 400)
    trainer = CalibrationTrainer(model, arguments(tmp_path))
    scale = torch.linspace(0.2, 2, K).double().numpy()
    logits = trainer.predict(data).predictions
    generator = np.random.default_rng(0)
    labels = (scale * logits / 3 + generator.gumbel(size=logits.shape)).argmax(axis=1)
    data = [{**row, "labels": label} for row, label in zip(data, labels.tolist(), strict=True)]
    fit = trainer.calibrate(data, method=method, guard=False if method != "auto" else None)
    assert getattr(fit.calibrator, "shift", ()) == () and model.config.calibration["folded"]
    assert np.abs(trainer.predict(data).predictions - fit.calibrator.calibrated_logits(logits)).max() < 1e-4
    assert list(model.state_dict()) == list(make("no bias").state_dict())
    unfolded = trainer.calibrate(data, method="vector", guard=False, fold=False)
    assert len(unfolded.calibrator.shift) == K  # where no head has to do it, the intercept stays


def test_answers_that_half_precision_changed_are_counted_and_told(tmp_path):
    torch.manual_seed(0)
    model, data = make("linear", torch.bfloat16), samples("bert", 300)
    with torch.no_grad():  # five classes that are nearly one
        model.classifier.weight.copy_(model.classifier.weight[:1] + model.classifier.weight / 32)
        model.classifier.bias.zero_()
    trainer = CalibrationTrainer(model, arguments(tmp_path))
    logits = trainer.predict(data).predictions.astype(np.float64)
    labels = (5 * logits + np.random.default_rng(0).gumbel(size=logits.shape)).argmax(axis=1).tolist()
    data = [{**row, "labels": label} for row, label in zip(data, labels, strict=True)]
    fit = trainer.calibrate(data, method="vector", guard=False, split="dev")
    changed = fit.calibrator.calibrated_logits(logits).argmax(1) != trainer.predict(data).predictions.argmax(1)
    assert model.config.calibration["rounding_changed"] == changed.sum() > 0
    report = trainer.report_on(trainer.flatten(trainer.predict(data)))
    told = f"changed {changed.sum()} of 300 validation answers; kept in the config (--no_fold_temperature, fold=False)"
    assert told in str(report)
    trainer.calibrate(data, method="vector", guard=False, fold=False)
    assert "rounding_changed" not in model.config.calibration
    model.float()
    trainer.calibrate(data, method="vector", guard=False)
    assert "rounding_changed" not in model.config.calibration


# ---- Read by others -------------------------------------------------------------------------------------------------


def test_a_stock_pipeline_gives_the_probabilities(tmp_path):
    model = make("linear")
    vocabulary = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *(f"w{i}" for i in range(35))]
    (tmp_path / "vocab.txt").write_text("\n".join(vocabulary))
    tokenizer = BertTokenizerFast(str(tmp_path / "vocab.txt"))
    texts = ["w1 w2 w3", "w7 w7 w30 w4 w1"]
    with torch.no_grad():
        raw = np.vstack([model(**tokenizer(text, return_tensors="pt")).logits.double().numpy() for text in texts])
    put_on_top(fold_calibrator(model, MATRIX), PRIOR).save_pretrained(tmp_path / "model")
    stock = AutoModelForSequenceClassification.from_pretrained(tmp_path / "model")
    rows = TextClassificationPipeline(model=stock, tokenizer=tokenizer, top_k=None)(texts)
    found = [[row["score"] for row in sorted(one, key=lambda row: row["label"])] for one in rows]
    assert np.abs(found - calibrator_of(stock.config.calibration).probabilities(raw)).max() < 1e-6
    unfold_calibrator(model).save_pretrained(tmp_path / "waiting")
    tokenizer.save_pretrained(tmp_path / "waiting")
    rows = pipeline(model=str(tmp_path / "waiting"), top_k=None)(texts)
    waiting = [[row["score"] for row in sorted(one, key=lambda row: row["label"])] for one in rows]
    assert np.abs(np.subtract(waiting, found)).max() < 1e-6


@pytest.mark.parametrize("calibrator", MAPS, ids=lambda one: f"{one.method}{len(getattr(one, 'shift', '1'))}")
def test_tensors_are_mapped_in_their_precision_with_a_gradient_and_masks_kept(calibrator):
    generator = torch.Generator().manual_seed(0)
    for dtype in (torch.float64, torch.float32, torch.bfloat16, torch.float16):
        logits = torch.randn(3, 4, K, generator=generator).to(dtype).requires_grad_()
        masked = logits.masked_fill(torch.arange(K) == 2, -torch.inf)
        with torch.autocast("cpu", dtype=torch.bfloat16):
            found = calibrator.on_tensor(masked)
        assert found.dtype == dtype and (found[..., 2] == -torch.inf).all()
        kept = np.arange(K) != 2
        plain = MAPS[calibrator](np.where(kept, logits.detach().double().numpy(), 0))
        assert np.abs(found.detach().double().numpy() - plain)[..., kept].max() <= 4 * torch.finfo(dtype).eps * 4
        found[..., kept].sum().backward()
        slopes = MAPS[calibrator](np.eye(K)) - MAPS[calibrator](np.zeros((K, K)))  # rows are columns of the map
        expected = np.where(kept, slopes[:, kept].sum(1), 0)
        assert np.abs(logits.grad.double().numpy() - expected).max() < 0.05 if dtype.itemsize < 4 else 1e-5
        assert logits.grad[..., 2].abs().max() == 0


def test_an_unfolded_map_follows_the_config_at_every_call():
    model = make("linear")
    before = logits_of(model)
    apply_temperature(put_on_top(model, MATRIX, fold=False))
    assert np.abs(logits_of(model) - MAPS[MATRIX](before)).max() < 1e-5
    model.config.calibration["matrix"][0][0] += 1.0  # in place
    assert np.abs(logits_of(model) - MAPS[MATRIX](before)).max() > 0.01
    model.config.calibration["matrix"][0][0] -= 1.0
    assert np.abs(logits_of(model) - MAPS[MATRIX](before)).max() < 1e-5
    model.config.calibration["folded"] = True
    assert np.array_equal(logits_of(model), before)


def test_the_metrics_of_a_trainer_heed_an_unfolded_map(overconfident, tmp_path):
    model, data = overconfident
    trainer = CalibrationTrainer(model, arguments(tmp_path), eval_dataset=data)
    fit = trainer.calibrate(method="matrix", guard=False, fold=False)
    metrics = trainer.evaluate()
    assert metrics["eval_nll"] == pytest.approx(fit.after["nll"], rel=1e-5)
    assert metrics["eval_loss"] != pytest.approx(fit.before["nll"], rel=1e-2)
    apply_temperature(model)
    assert trainer.evaluate()["eval_nll"] == pytest.approx(fit.after["nll"], rel=1e-5)
