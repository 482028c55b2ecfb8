# Copyright 2026 The hf_focal authors. Licensed under the Apache License, Version 2.0.
"""Calibrators in `logit_scale` and `logit_bias` of image-text models: folded, undone, kept in the config, refused."""

import copy
import math

import numpy as np
import pytest
import torch
import transformers
from small_zero_shot import CIFAR, SIZES, TEMPLATE, clip, pixels, siglip, siglip2, tokenizer

from hf_focal import (
    Affine,
    UnfoldableError,
    apply_temperature,
    fold_calibrator,
    fold_checkpoint,
    fold_temperature,
    from_pretrained,
    unfold_calibrator,
    zero_shot_classifier,
)
from hf_focal.calibrators import (
    BiasCorrection,
    MatrixScaling,
    PlattScaling,
    PriorShift,
    TemperatureScaling,
    VectorScaling,
)
from hf_focal.models.fingerprint import fingerprint
from hf_focal.models.fold import put_on_top
from hf_focal.models.record import calibration_record, record_of
from hf_focal.networks.zero_shot import probe_batch


MAKERS = [clip, siglip, siglip2]


def scores(model, batch=None):
    with torch.no_grad():
        return model(**(probe_batch(model) if batch is None else batch)).logits_per_image.double()


def platt(scale, shift, labels=7):
    """One scale and one shift for all labels, however many the model is asked for."""
    return PlattScaling((scale,) * labels, (shift,) * labels)


def weights(model):
    return {name: one.detach().clone() for name, one in model.state_dict().items()}


@pytest.mark.parametrize("make", MAKERS)
@pytest.mark.parametrize("labelled", [False, True])
def test_a_temperature_is_taken_off_the_logarithm_and_put_back_bit_for_bit(make, labelled, tmp_path):
    model, processor = make()
    if labelled:
        zero_shot_classifier(model, processor, CIFAR, TEMPLATE)
    before, known = scores(model), weights(model)
    fold_temperature(model, 1.7)
    assert model.logit_scale.item() == pytest.approx(2.0 - math.log(1.7), abs=1e-7)
    torch.testing.assert_close(scores(model), before / 1.7, rtol=0, atol=1e-6 * float(before.abs().max()))
    changed = {name for name, one in weights(model).items() if not torch.equal(one, known[name])}
    assert changed == {"logit_scale", *(["logit_bias"] if make is not clip else [])}
    model.save_pretrained(tmp_path)
    loaded = from_pretrained(tmp_path)
    torch.testing.assert_close(scores(loaded), scores(model), rtol=0, atol=0)
    for one in (model, loaded):
        unfold_calibrator(one)
        assert all(torch.equal(value, known[name]) for name, value in weights(one).items())
        assert one.config.calibration["folded"] is False


@pytest.mark.parametrize("make", [siglip, siglip2])
def test_a_scale_and_a_shift_of_sigmoids_go_into_both_numbers(make, tmp_path):
    model, _ = make()
    before = scores(model)
    fold_calibrator(model, platt(0.6, -1.25))
    assert model.logit_scale.item() == pytest.approx(2.0 + math.log(0.6), abs=1e-7)
    assert model.logit_bias.item() == pytest.approx(-3.0 * 0.6 - 1.25, abs=1e-6)
    expected = torch.sigmoid(0.6 * before - 1.25)
    torch.testing.assert_close(torch.sigmoid(scores(model)), expected, rtol=0, atol=1e-6)
    model.save_pretrained(tmp_path)
    (tmp_path / ".head_before_calibration.safetensors").unlink()
    loaded = from_pretrained(tmp_path)
    unfold_calibrator(loaded)  # by rounded numbers: what the head was is not to be found
    torch.testing.assert_close(scores(loaded), before, rtol=0, atol=1e-5 * float(before.abs().max()))


@pytest.mark.parametrize("make", MAKERS)
def test_one_is_put_on_top_of_another_and_taken_off_again(make):
    model, _ = make()
    before = scores(model)
    fold_temperature(model, 2.0)
    with pytest.raises(ValueError, match="calibrated already.*unfold_temperature"):
        fold_temperature(model, 2.0)
    top = TemperatureScaling(1.5) if make is clip else platt(0.5, 1.0)
    put_on_top(model, top)
    expected = before / 3 if make is clip else before / 4 + 1
    torch.testing.assert_close(scores(model), expected, rtol=1e-5, atol=1e-5)
    unfold_calibrator(model, only_last=True)
    torch.testing.assert_close(scores(model), before / 2, rtol=1e-5, atol=1e-5)
    unfold_calibrator(model)
    assert torch.equal(scores(model), before)


@pytest.mark.parametrize("make", MAKERS)
def test_kept_in_the_config_it_is_applied_to_whatever_the_model_gives(make, tmp_path):
    model, processor = make()
    before, batch = scores(model), probe_batch(model)
    calibrator = TemperatureScaling(2.0) if make is clip else platt(0.5, 1.0)
    model.config.calibration = record_of(calibrator, {}, False, fingerprint(model))
    model.save_pretrained(tmp_path)
    loaded = from_pretrained(tmp_path)
    expected = before / 2 + (0 if make is clip else 1)
    with torch.no_grad():
        outputs, plain = loaded(**batch), loaded(**batch, return_dict=False)
    for found in (outputs.logits_per_image, outputs.logits_per_text.t(), plain[0], plain[1].t()):
        torch.testing.assert_close(found.double(), expected, rtol=0, atol=1e-5)
    torch.testing.assert_close(outputs.image_embeds, model(**batch).image_embeds)
    zero_shot_classifier(loaded, processor, CIFAR, TEMPLATE)
    images = {name: one for name, one in batch.items() if name not in ("input_ids", "attention_mask")}
    with torch.no_grad():
        found = loaded(**images).logits
    loaded.config.calibration = None
    with torch.no_grad():
        plain = loaded(**images).logits
    assert found.shape[:2] == (2, len(CIFAR))
    torch.testing.assert_close(found, plain / 2 + (0 if make is clip else 1))
    with pytest.raises(UnfoldableError, match="not known by its name.*fold it by fold_calibrator"):
        fold_checkpoint(tmp_path)


@pytest.mark.parametrize("make", MAKERS)
@pytest.mark.parametrize("fold", [True, False])
def test_maps_of_single_classes_are_refused_in_one_sentence(make, fold):
    model, _ = make()
    known = weights(model)
    two = [
        VectorScaling(1.5, (1.0, 2.0), (0.0, 0.0)),
        MatrixScaling(1.5, ((1.0, 0.5), (0.0, 1.0)), (0.0, 0.0)),
    ]
    if make is clip:
        two += [BiasCorrection((0.5, -0.5)), PriorShift((0.5, 0.5), (0.9, 0.1))]
    else:
        two = [PlattScaling((1.0, 1.5), ()), PlattScaling((1.0, 1.0), (0.0, 0.5))]
    for calibrator in two:
        with pytest.raises(UnfoldableError, match="one logit_scale.* for all labels, and nothing of a class") as error:
            put_on_top(model, calibrator, fold=fold)
        assert str(error.value).count(". ") == 1
        model.config.calibration = record_of(calibrator, {}, False)
        with pytest.raises(UnfoldableError, match="nothing of a class"):
            apply_temperature(model)
        del model.config.calibration
    assert all(torch.equal(value, known[name]) for name, value in weights(model).items())
    assert calibration_record(model) is None


def test_a_factor_below_zero_is_no_exponential():
    from hf_focal.models.scores import for_scores

    with pytest.raises(UnfoldableError, match=r"exp\(logit_scale\), which is positive"):
        for_scores(clip()[0], Affine(-1.0), "thing")


def test_a_record_is_of_the_towers_and_not_of_a_number_that_many_models_share():
    model, _ = clip()
    record = record_of(TemperatureScaling(2.0), {}, False, fingerprint(model))
    other = copy.deepcopy(model)
    with torch.no_grad():
        other.visual_projection.weight.add_(torch.randn_like(other.visual_projection.weight))
    other.config.calibration = record
    with pytest.raises(ValueError, match="is of another head.*its weights are others"):
        apply_temperature(other)
    model.config.calibration = record
    apply_temperature(model.to(torch.bfloat16))  # rounded, it is the same


def test_half_precision_says_what_the_logarithm_became(caplog):
    model, _ = siglip()
    model.to(torch.bfloat16)
    fold_calibrator(model, TemperatureScaling(1.37))
    factor = math.exp(model.logit_scale.item() - 2)
    assert abs(factor * 1.37 - 1) > 1e-3
    (words,) = [one.getMessage() for one in caplog.records if "logarithm" in one.getMessage()]
    assert f"holds one of {factor:.5g} in place of {1 / 1.37:.5g}" in words and "bfloat16" in words
    unfold_calibrator(model)
    assert model.logit_scale.item() == 2.0
    caplog.clear()
    fold_calibrator(model.float(), TemperatureScaling(1.37))
    assert not caplog.records


def test_the_classifier_is_the_model_itself_where_texts_are_given():
    model, processor = clip()
    batch, expected = probe_batch(model), scores(model)
    known = weights(model)
    zero_shot_classifier(model, processor, CIFAR, TEMPLATE)
    torch.testing.assert_close(scores(model, batch), expected, rtol=0, atol=0)
    assert weights(model).keys() == known.keys()  # nothing that would be saved
    twin = copy.deepcopy(model)
    with torch.no_grad():
        twin.logit_scale.add_(1)
        one, other = (each(pixel_values=pixels(3)).logits for each in (model, twin))
    torch.testing.assert_close(other, one * math.e)
    assert np.isfinite(one.numpy()).all()


@pytest.mark.parametrize("name", ["AltCLIP", "Blip", "ChineseCLIP", "CLIPSeg", "MetaClip2"])
def test_other_families_have_the_same_two_towers(name):
    torch.manual_seed(0)
    words = tokenizer()
    sizes = {"vocab_size": len(words), "max_position_embeddings": 64, "eos_token_id": words.sep_token_id}
    text = {**SIZES, **sizes, "bos_token_id": words.cls_token_id, "pad_token_id": words.pad_token_id}
    text |= {"project_dim": 16, "encoder_hidden_size": 16}
    vision = {**SIZES, "image_size": 32, "patch_size": 16, "projection_dim": 16}
    config = getattr(transformers, f"{name}Config")
    config = config(text_config=text, vision_config=vision, projection_dim=16, image_text_hidden_size=16)
    model = getattr(transformers, f"{name}Model")(config).eval()
    zero_shot_classifier(model, words, CIFAR, TEMPLATE)
    tokens = words([TEMPLATE.format(label) for label in CIFAR], padding=True, return_tensors="pt")
    tokens = {key: one for key, one in tokens.items() if key != "token_type_ids" or name == "ChineseCLIP"}
    with torch.no_grad():
        found = model(pixel_values=pixels(3)).logits
        expected = type(model).forward(model, pixel_values=pixels(3), **tokens).logits_per_image
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-6)
    before = scores(model)
    fold_temperature(model, 2.0)
    torch.testing.assert_close(scores(model), before / 2, rtol=1e-5, atol=1e-6)
    assert model.config.calibration["folded"]
