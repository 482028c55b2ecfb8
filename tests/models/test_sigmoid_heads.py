# Copyright 2026 The hf_focal authors. Licensed under the Apache License, Version 2.0.
"""Heads whose labels each have a probability of their own: folded, saved, loaded, served and exported."""

import json
import logging

import numpy as np
import onnxruntime
import pytest
import torch
import transformers
from peft import LoraConfig, get_peft_model
from PIL import Image
from scipy.special import expit
from transformers import (
    AutoModelForSequenceClassification,
    BertConfig,
    BertForSequenceClassification,
    GPT2Config,
    GPT2ForSequenceClassification,
    PreTrainedTokenizerFast,
    ViTConfig,
    ViTForImageClassification,
    ViTImageProcessor,
    Wav2Vec2Config,
    Wav2Vec2FeatureExtractor,
    Wav2Vec2ForSequenceClassification,
)

import hf_focal
from hf_focal import calibrator_of, fold_calibrator, fold_checkpoint, fold_temperature, unfold_calibrator
from hf_focal.calibrators.base import CALIBRATORS
from hf_focal.calibrators.platt import PlattScaling
from hf_focal.models.fingerprint import fingerprint
from hf_focal.models.fold import put_on_top
from hf_focal.models.record import calibration_record, record_of
from hf_focal.models.sigmoid import is_sigmoid
from hf_focal.robustness.study import UncalibratedModel


SMALL = {"hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 32}
MULTI_LABEL = "multi_label_classification"
SIGMOID = "torch.nn.modules.activation.Sigmoid"
WORDS = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", *(f"w{i}" for i in range(46))]


def platt(count):
    """A scale and a shift of each label, far from none."""
    return PlattScaling(tuple(np.linspace(0.4, 1.7, count)), tuple(np.linspace(-1.5, 2.0, count)), (0.8, 0.3))


def bert(count, **config):
    torch.manual_seed(0)
    kind = {} if count == 1 else {"problem_type": MULTI_LABEL}
    model = BertForSequenceClassification(BertConfig(vocab_size=50, num_labels=count, **SMALL, **{**kind, **config}))
    torch.nn.init.normal_(model.classifier.weight)
    return model.eval()


def vit(count):
    torch.manual_seed(0)
    kind = {} if count == 1 else {"problem_type": MULTI_LABEL}
    model = ViTForImageClassification(ViTConfig(image_size=16, patch_size=8, num_labels=count, **SMALL, **kind))
    torch.nn.init.normal_(model.classifier.weight)
    return model.eval()


def inputs_for(model, count=6):
    generator = torch.Generator().manual_seed(1)
    if model.main_input_name == "input_ids":
        tokens = torch.randint(4, 50, (count, 7), generator=generator)
        return {"input_ids": tokens, "attention_mask": torch.ones_like(tokens)}
    return {"pixel_values": torch.randn(count, 3, 16, 16, generator=generator)}


def logits_of(model):
    with torch.no_grad():
        return model.eval()(**inputs_for(model)).logits.double().numpy()


def weights_of(model):
    return {name: tensor.clone() for name, tensor in model.state_dict().items()}


@pytest.mark.parametrize("count", [1, 4])
@pytest.mark.parametrize("build", [bert, vit])
def test_a_head_does_the_map_row_by_row_and_undoes_it_bit_for_bit(build, count, tmp_path):
    model, calibrator = build(count), platt(count)
    before, weights = logits_of(model), weights_of(model)
    expected = calibrator.probabilities(before)
    assert np.abs(expected - expit(before * calibrator.scale + calibrator.shift)).max() < 1e-12
    fold_calibrator(model, calibrator, record={"split": "validation"})
    assert np.abs(expit(logits_of(model)) - expected).max() < 1e-5 < np.abs(expit(before) - expected).max()
    record = calibration_record(model)
    assert record["activation"] == "sigmoid" and record["folded"] and record["method"] == "platt"
    assert model.config.problem_type == MULTI_LABEL
    assert calibrator_of(record) == calibrator
    assert np.array_equal(calibrator_of(record).probabilities(before), expected)

    model.save_pretrained(tmp_path / "model")
    stock = type(model).from_pretrained(tmp_path / "model")
    assert stock.config.problem_type == MULTI_LABEL and np.array_equal(logits_of(stock), logits_of(model))
    loaded = hf_focal.from_pretrained(tmp_path / "model")
    unfold_calibrator(loaded)
    assert all(torch.equal(one, weights[name]) for name, one in weights_of(loaded).items())
    assert not loaded.config.calibration["folded"]
    hf_focal.apply_temperature(loaded)
    assert np.abs(expit(logits_of(loaded)) - expected).max() < 1e-5


def test_without_a_bias_a_head_takes_scales_alone():
    torch.manual_seed(0)
    config = GPT2Config(vocab_size=50, n_embd=32, n_layer=1, n_head=2, num_labels=3, pad_token_id=0)
    config.problem_type = MULTI_LABEL
    model = GPT2ForSequenceClassification(config).eval()
    torch.nn.init.normal_(model.score.weight)
    before = logits_of(model)
    with pytest.raises(hf_focal.UnfoldableError, match="no bias, which a shift needs"):
        fold_calibrator(model, platt(3))
    generator = np.random.default_rng(0)
    logits = generator.normal(size=(3000, 3)) * 3
    labels = generator.random(logits.shape) < expit(logits * [0.5, 0.3, 1.0])
    fit = hf_focal.fit_calibrator(logits, labels, "platt", intercept=False)
    assert fit.helped and fit.calibrator.shift == ()
    fold_calibrator(model, fit)
    assert np.abs(expit(logits_of(model)) - fit.probabilities(before)).max() < 1e-5


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_heads_in_half_precision_are_rounded_once(dtype):
    model = bert(4).to(dtype)
    head, calibrator = model.classifier.weight.detach().double(), platt(4)
    fold_calibrator(model, calibrator)
    expected = (head * torch.tensor(calibrator.scale, dtype=torch.float64)[:, None]).to(dtype)
    assert torch.equal(model.classifier.weight, expected)
    unfold_calibrator(model)
    assert torch.equal(model.classifier.weight.double(), head)


def test_a_common_temperature_is_one_of_sigmoids_there():
    model = bert(1)
    before = logits_of(model)
    fold_temperature(model, 2.5)
    assert model.config.calibration["activation"] == "sigmoid" and model.config.problem_type == MULTI_LABEL
    assert np.abs(expit(logits_of(model)) - expit(before / 2.5)).max() < 1e-6
    put_on_top(model, platt(1))
    record = calibration_record(model)
    assert [step["activation"] for step in (record, *record["then"])] == ["sigmoid"] * 2
    expected = expit((before / 2.5) * 0.4 - 1.5)
    assert np.abs(calibrator_of(record).probabilities(before) - expected).max() < 1e-12
    assert np.abs(expit(logits_of(model)) - expected).max() < 1e-5


def test_maps_of_the_other_kind_of_head_are_refused():
    softmax = bert(4, problem_type="single_label_classification")
    weights = weights_of(softmax)
    with pytest.raises(hf_focal.UnfoldableError, match="a head of labels with a probability each.*problem_type"):
        fold_calibrator(softmax, platt(4))
    with pytest.raises(hf_focal.UnfoldableError, match="one softmax over the classes"):
        fold_calibrator(bert(4), CALIBRATORS["bias"]((0.1, 0.2, 0.3, 0.4)))
    with pytest.raises(hf_focal.UnfoldableError, match="one softmax over the classes"):
        put_on_top(bert(4), CALIBRATORS["bias"]((0.1, 0.2, 0.3, 0.4)))
    with pytest.raises(ValueError, match="Priors need one label per sample"):
        hf_focal.adjust_prior(bert(4), [1] * 4, [1, 2, 3, 4])
    assert all(torch.equal(one, weights[name]) for name, one in weights_of(softmax).items())
    assert getattr(softmax.config, "calibration", None) is None


def test_a_record_of_sigmoids_is_not_for_a_softmax(caplog):
    model = bert(4)
    fold_calibrator(model, platt(4))
    model.config.problem_type = "single_label_classification"
    with caplog.at_level(logging.WARNING):
        assert calibration_record(model) is None
    assert "labels with a probability each, and the model has one softmax" in caplog.text
    model = bert(4)
    model.config.calibration = record_of(platt(4), {}, False, fingerprint(model))
    model.config.problem_type = None
    with pytest.raises(ValueError, match="one softmax"):
        hf_focal.apply_temperature(model)


@pytest.mark.parametrize("bad", ["relu", 3, None])
def test_an_activation_that_there_is_not_is_refused_by_name(bad):
    with pytest.raises(ValueError, match=r"\['activation'\] must be 'softmax' or 'sigmoid'"):
        calibrator_of({"method": "temperature", "temperature": 1.5, "activation": bad})
    with pytest.raises(ValueError, match="scale"):
        calibrator_of({"method": "platt", "activation": "sigmoid", "scale": "1", "shift": []})
    with pytest.raises(ValueError, match="of the activation 'softmax', as the first"):
        step = {"method": "temperature", "temperature": 1.5, "activation": "sigmoid"}
        calibrator_of({"method": "temperature", "temperature": 1.5, "then": [step]})


@pytest.mark.parametrize("count", [1, 4])
def test_a_folder_is_folded_on_disk_as_in_memory(count, tmp_path):
    model, calibrator = bert(count), platt(count)
    model.config.problem_type = MULTI_LABEL
    model.config.sentence_transformers = {"version": "5.0", "activation_fn": "torch.nn.modules.linear.Identity"}
    model.config.calibration = record_of(calibrator, {"split": "validation"}, False, fingerprint(model))
    model.save_pretrained(tmp_path / "disk")
    settings = {"activation_fn": "torch.nn.modules.linear.Identity", "prompts": {}}
    (tmp_path / "disk" / "config_sentence_transformers.json").write_text(json.dumps(settings))
    fold_calibrator(model, calibrator)
    model.save_pretrained(tmp_path / "memory")
    fold_checkpoint(tmp_path / "disk")
    one, other = (BertForSequenceClassification.from_pretrained(tmp_path / name) for name in ("disk", "memory"))
    assert all(torch.equal(tensor, other.state_dict()[name]) for name, tensor in one.state_dict().items())
    assert one.config.calibration == other.config.calibration and one.config.problem_type == MULTI_LABEL
    assert one.config.sentence_transformers == {"version": "5.0", "activation_fn": SIGMOID}
    written = json.loads((tmp_path / "disk" / "config_sentence_transformers.json").read_text())
    assert written == {**settings, "activation_fn": SIGMOID}


@pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing` is deprecated")
@pytest.mark.parametrize("count", [1, 4])
@pytest.mark.parametrize("fold", [True, False])
def test_an_adapter_carries_its_head_of_sigmoids(count, fold, tmp_path):
    base = bert(count)
    base.config.problem_type = None  # an encoder knows nothing of the task
    base.save_pretrained(tmp_path / "base")
    torch.manual_seed(1)
    model = AutoModelForSequenceClassification.from_pretrained(tmp_path / "base")
    model.config.problem_type = MULTI_LABEL
    model = get_peft_model(model, LoraConfig(task_type="SEQ_CLS", r=2, init_lora_weights=False)).eval()
    before, calibrator = logits_of(model), platt(count)
    if fold:
        fold_calibrator(model, calibrator)
    else:
        put_on_top(model, calibrator, fold=False)
    model.save_pretrained(tmp_path / "adapter")
    loaded = hf_focal.from_pretrained(tmp_path / "adapter")
    assert loaded.config.problem_type == MULTI_LABEL and loaded.config.num_labels == count
    assert np.abs(expit(logits_of(loaded)) - calibrator.probabilities(before)).max() < 1e-5


def saved_text_model(folder, count, fold=True):
    model, calibrator = bert(count), platt(count)
    text = [" ".join(WORDS[token] for token in row) for row in inputs_for(model)["input_ids"].tolist()]
    from tokenizers import Tokenizer, models, pre_tokenizers

    backend = Tokenizer(models.WordLevel({word: i for i, word in enumerate(WORDS)}, unk_token="[UNK]"))
    backend.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    PreTrainedTokenizerFast(tokenizer_object=backend, pad_token="[PAD]", unk_token="[UNK]").save_pretrained(folder)
    expected = calibrator.probabilities(logits_of(model))
    put_on_top(model, calibrator, fold=fold)
    model.save_pretrained(folder)
    return text, expected


def by_label(answers, model):
    scores = np.zeros((len(answers), model.config.num_labels))
    for row, answer in zip(scores, answers, strict=True):
        for one in answer:
            row[model.config.label2id[one["label"]]] = one["score"]
    return scores


@pytest.mark.parametrize("count", [1, 4])
def test_pipelines_of_texts_give_the_calibrated_probabilities(count, tmp_path):
    text, expected = saved_text_model(tmp_path / "model", count)
    for make in (transformers.pipeline, hf_focal.pipeline):
        classifier = make("text-classification", model=str(tmp_path / "model"))
        assert np.abs(by_label(classifier(text, top_k=None), classifier.model) - expected).max() < 1e-5
    first = classifier(text[:1])[0]
    assert first["score"] == pytest.approx(expected[0].max(), abs=1e-5)
    text, expected = saved_text_model(tmp_path / "unfolded", count, fold=False)
    classifier = hf_focal.pipeline("text-classification", model=str(tmp_path / "unfolded"))
    assert np.abs(by_label(classifier(text, top_k=None), classifier.model) - expected).max() < 1e-5


@pytest.mark.parametrize("count", [1, 4])
def test_pipelines_of_images_give_the_calibrated_probabilities(count, tmp_path):
    model, calibrator = vit(count), platt(count)
    processor = ViTImageProcessor(size={"height": 16, "width": 16})
    processor.save_pretrained(tmp_path)
    generator = np.random.default_rng(0)
    images = [Image.fromarray(generator.integers(0, 255, (16, 16, 3), dtype=np.uint8)) for _ in range(3)]
    with torch.no_grad():
        before = model(**processor(images, return_tensors="pt")).logits.numpy()
    fold_calibrator(model, calibrator)
    model.save_pretrained(tmp_path)
    for make in (transformers.pipeline, hf_focal.pipeline):
        classifier = make("image-classification", model=str(tmp_path))
        assert np.abs(by_label(classifier(images), classifier.model) - calibrator.probabilities(before)).max() < 1e-5


def test_scores_of_unfamiliar_data_are_for_one_softmax(tmp_path):
    vit(4).save_pretrained(tmp_path)
    with pytest.raises(ValueError, match="Scores of unfamiliar and corrupted images need one label per sample"):
        UncalibratedModel(str(tmp_path), str(tmp_path / "out"))


def test_a_single_logit_that_nobody_calibrated_goes_through_a_sigmoid():
    torch.manual_seed(0)
    sizes = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 16}
    convolutions = {"conv_dim": (8,), "conv_stride": (5,), "conv_kernel": (10,), "num_feat_extract_layers": 1}
    config = Wav2Vec2Config(**sizes, **convolutions, num_conv_pos_embeddings=4, num_conv_pos_embedding_groups=2)
    config.num_labels, config.classifier_proj_size = 1, 8
    model = Wav2Vec2ForSequenceClassification(config).eval()
    torch.nn.init.normal_(model.classifier.weight)
    sound, extractor = np.random.default_rng(0).normal(size=4000), Wav2Vec2FeatureExtractor()
    classifier = hf_focal.pipeline("audio-classification", model=model, feature_extractor=extractor)
    with torch.no_grad():
        logit = model(**extractor(sound, sampling_rate=16_000, return_tensors="pt")).logits.item()
    assert classifier(sound)[0]["score"] == pytest.approx(expit(logit), abs=1e-5) and expit(logit) < 0.999
    assert not is_sigmoid(BertConfig(num_labels=1, problem_type="regression"))


@pytest.mark.parametrize("count", [pytest.param(1, marks=pytest.mark.slow), 4])
@pytest.mark.filterwarnings("ignore:# The axis name. batch will not be used:UserWarning")
def test_onnx_has_the_calibrated_logits(count, tmp_path):
    model, calibrator = bert(count), platt(count)
    expected, inputs = calibrator.probabilities(logits_of(model)), inputs_for(model)
    fold_calibrator(model, calibrator)

    class Sigmoids(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.model = model

        def forward(self, input_ids, attention_mask):
            return self.model(input_ids=input_ids, attention_mask=attention_mask).logits.sigmoid()

    batch = torch.export.Dim("batch")
    path, shapes = tmp_path / "model.onnx", {name: {0: batch} for name in inputs}
    torch.onnx.export(
        Sigmoids().eval(), tuple(inputs.values()), path, dynamo=True, verbose=False, input_names=list(inputs),
        output_names=["probabilities"], dynamic_shapes=shapes,
    )  # fmt: skip
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    (found,) = session.run(None, {name: tensor.numpy() for name, tensor in inputs.items()})
    assert np.abs(found - expected).max() < 1e-5


@pytest.mark.parametrize("count", [1, 4])
def test_a_cross_encoder_gives_the_calibrated_score(count, tmp_path):
    sentence_transformers = pytest.importorskip(
        "sentence_transformers", reason="an optional extra: pip install 'hf_focal[rerankers]'"
    )
    text, expected = saved_text_model(tmp_path / "model", count)
    config = json.loads((tmp_path / "model" / "config.json").read_text())
    assert config["sentence_transformers"]["activation_fn"] == SIGMOID
    config["sentence_transformers"]["activation_fn"] = "torch.nn.modules.linear.Identity"
    (tmp_path / "model" / "config.json").write_text(json.dumps(config))
    before = sentence_transformers.CrossEncoder(str(tmp_path / "model"), device="cpu")
    model = hf_focal.from_pretrained(tmp_path / "model")  # as another program left it: calibrated anew
    fold_calibrator(unfold_calibrator(model), platt(count)).save_pretrained(tmp_path / "model")
    encoder = sentence_transformers.CrossEncoder(str(tmp_path / "model"), device="cpu")
    # Without special tokens and token types a pair is the text of both.
    pairs = [tuple(words.split(" ", 1)) for words in text]
    found = encoder.predict(pairs).reshape(expected.shape)
    assert np.abs(found - expected).max() < 1e-5
    assert np.abs(expit(before.predict(pairs).reshape(expected.shape)) - expected).max() < 1e-5  # it gave logits
    encoder.save_pretrained(str(tmp_path / "again"))
    again = sentence_transformers.CrossEncoder(str(tmp_path / "again"), device="cpu")
    assert np.abs(again.predict(pairs).reshape(expected.shape) - expected).max() < 1e-5
