# Copyright 2026 The hf_focal authors. Licensed under the Apache License, Version 2.0.
"""Folding over the model families of transformers and timm: saved, and read by stock transformers alone."""

import json
import subprocess
import sys

import numpy as np
import pytest
import timm
import torch
import transformers
from datasets import Dataset
from safetensors.torch import save_file
from scipy.special import softmax
from transformers import AutoModelForImageClassification, TimmWrapperConfig

from hf_focal import CalibrationTrainer, CalibrationTrainingArguments, fold_temperature, unfold_temperature


NUM_LABELS = 11
TEMPERATURE = 2.6
VOCABULARY = {"vocab_size": 50, "pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2}
SMALL = {"hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 32}
TEXT = {**VOCABULARY, **SMALL}
DECODER = {**TEXT, "num_key_value_heads": 1, "head_dim": 16}
GPT = {**VOCABULARY, "n_embd": 32, "n_layer": 1, "n_head": 2}
VIT = {"image_size": 16, "patch_size": 8, **SMALL}
STAGES = {"hidden_sizes": [8] * 4, "depths": [1] * 4}
PYRAMID = {**STAGES, "image_size": 32, "num_attention_heads": [1] * 4}
SWIN = {"image_size": 32, "embed_dim": 8, "depths": [1, 1], "num_heads": [1, 2], "window_size": 4}
LEVIT = {"image_size": 64, "hidden_sizes": [16] * 3, "num_attention_heads": [1] * 3, "depths": [1] * 3}
LEVIT = {**LEVIT, "key_dim": [8] * 3}
BART = {**VOCABULARY, "d_model": 32, "encoder_layers": 1, "decoder_layers": 1, "encoder_attention_heads": 2}
BART = {**BART, "decoder_attention_heads": 2, "encoder_ffn_dim": 32, "decoder_ffn_dim": 32}
T5 = {"vocab_size": 50, "d_model": 32, "d_kv": 16, "d_ff": 32, "num_layers": 1, "num_heads": 2, "eos_token_id": 2}
T5 = {**T5, "pad_token_id": 0, "decoder_start_token_id": 0}
PERCEIVER = {"num_latents": 4, "d_latents": 16, "d_model": 16, "num_blocks": 1, "num_self_attends_per_block": 1}
PERCEIVER = {**PERCEIVER, "num_self_attention_heads": 1, "num_cross_attention_heads": 1}

# Classifier, without "ForImageClassification" or "ForSequenceClassification", and what makes its config small.
IMAGE = {
    "Beit": {**VIT, "out_indices": [1]},
    "Bit": {"embedding_size": 32, "hidden_sizes": [32] * 4, "depths": [1] * 4, "num_groups": 8},
    "CLIP": {"vision_config": VIT, "text_config": TEXT},
    "ConvNext": STAGES,
    "ConvNextV2": STAGES,
    "Data2VecVision": VIT,
    "DeiT": VIT,
    "Dinov2": VIT,
    "Dinov2WithRegisters": VIT,
    "DonutSwin": SWIN,
    "EfficientNet": {"image_size": 32, "width_coefficient": 0.25, "depth_coefficient": 0.2, "hidden_dim": 320},
    "FocalNet": {"image_size": 32, "embed_dim": 8, "hidden_sizes": [8, 16], "depths": [1, 1]}
    | {"focal_levels": [1, 1], "focal_windows": [3, 3]},
    "HGNetV2": {"embedding_size": 8, "stem_channels": [3, 8, 8], "hidden_sizes": [8] * 4, "depths": [1] * 4}
    | {f"stage_{key}_channels": [8] * 4 for key in ("in", "mid", "out")}
    | {"stage_num_blocks": [1] * 4, "stage_numb_of_layers": [1] * 4},
    "IJepa": VIT,
    "ImageGPT": {"n_embd": 32, "n_layer": 1, "n_head": 2, "n_positions": 16, "vocab_size": 50},
    "Levit": LEVIT,
    "MetaClip2": {"vision_config": VIT, "text_config": TEXT},
    "MobileNetV1": {"image_size": 32, "depth_multiplier": 0.25},
    "MobileNetV2": {"image_size": 32, "depth_multiplier": 0.25},
    "MobileViT": {"image_size": 32, "hidden_sizes": [16] * 3, "neck_hidden_sizes": [8] * 6 + [16]}
    | {"num_attention_heads": 2},
    "MobileViTV2": {"image_size": 64, "width_multiplier": 0.25},
    "PPLCNet": {},
    "PoolFormer": STAGES,
    "Pvt": PYRAMID,
    "PvtV2": PYRAMID,
    "RegNet": {"embedding_size": 8, **STAGES, "groups_width": 8},
    "ResNet": {"embedding_size": 8, **STAGES, "num_channels": 1},
    "Segformer": {**STAGES, "num_attention_heads": [1] * 4},
    "Siglip": {"vision_config": VIT, "text_config": {**TEXT, "projection_size": 32}},
    "Siglip2": {"vision_config": {**SMALL, "num_patches": 16, "patch_size": 4}}
    | {"text_config": {**TEXT, "projection_size": 32}},
    "SwiftFormer": {"image_size": 32, "depths": [1] * 4, "embed_dims": [8] * 4},
    "Swin": SWIN,
    "Swinv2": SWIN,
    "ViT": VIT,
    "ViTMSN": {**VIT, "image_size": [16, 24]},
}
SEQUENCE = {
    "Albert": {**TEXT, "embedding_size": 16},
    "Bart": BART,
    "Bert": TEXT,
    "BigBird": {**TEXT, "attention_type": "original_full"},
    "Bloom": {**VOCABULARY, "hidden_size": 32, "n_layer": 1, "n_head": 2},
    "Camembert": TEXT,
    "Canine": {**SMALL, "num_hash_buckets": 50, "pad_token_id": 0},
    "ConvBert": {**TEXT, "embedding_size": 32},
    "CTRL": {**GPT, "dff": 32},
    "Deberta": TEXT,
    "DebertaV2": TEXT,
    "DistilBert": {"vocab_size": 50, "dim": 32, "n_layers": 1, "n_heads": 2, "hidden_dim": 32},
    "Electra": {**TEXT, "embedding_size": 32},
    "Esm": {**TEXT, "mask_token_id": 3},
    "Falcon": TEXT,
    "Funnel": {"vocab_size": 50, "block_sizes": [1], "d_model": 32, "n_head": 2, "d_head": 16, "d_inner": 32},
    "GPT2": GPT,
    "GPTNeo": {**VOCABULARY, "hidden_size": 32, "num_layers": 1, "num_heads": 2}
    | {"attention_types": [[["global"], 1]]},
    "GPTNeoX": TEXT,
    "Gemma": DECODER,
    "Gemma2": DECODER,
    "Gemma3": {"text_config": DECODER, "vision_config": VIT, "mm_tokens_per_image": 4, "image_token_index": 49},
    "Gemma3Text": DECODER,
    "LayoutLM": TEXT,
    "Llama": DECODER,
    "Longformer": {**TEXT, "attention_window": 8, "sep_token_id": 2},
    "MBart": BART,
    "MPNet": TEXT,
    "MT5": T5,
    "Mistral": DECODER,
    "MobileBert": {**TEXT, "embedding_size": 32, "intra_bottleneck_size": 32},
    "ModernBert": {**TEXT, "cls_token_id": 1, "sep_token_id": 2},
    "OPT": {**VOCABULARY, "hidden_size": 32, "ffn_dim": 32, "num_hidden_layers": 1, "num_attention_heads": 2}
    | {"word_embed_proj_dim": 32},
    "OpenAIGPT": GPT,
    "Phi3": DECODER,
    "Qwen2": DECODER,
    "Qwen3": DECODER,
    "RemBert": {**TEXT, "input_embedding_size": 16, "output_embedding_size": 16},
    "RoFormer": TEXT,
    "Roberta": TEXT,
    "SqueezeBert": {**TEXT, "embedding_size": 32},
    "T5": T5,
    "T5Gemma": {"encoder": DECODER, "decoder": DECODER, "vocab_size": 50},
    "XLM": {"vocab_size": 50, "emb_dim": 32, "n_layers": 1, "n_heads": 2, "pad_token_id": 0},
    "XLMRoberta": TEXT,
    "XLNet": {"vocab_size": 50, "d_model": 32, "n_layer": 1, "n_head": 2, "d_inner": 32, "pad_token_id": 0},
}
OTHERS = {
    "DeiTForImageClassificationWithTeacher": VIT,
    "LevitForImageClassificationWithTeacher": LEVIT,
    "BertForTokenClassification": TEXT,
    "RobertaForTokenClassification": TEXT,
    "DistilBertForTokenClassification": SEQUENCE["DistilBert"],
}
TRANSFORMERS = {
    **{f"{family}ForImageClassification": small for family, small in IMAGE.items()},
    **{f"{family}ForSequenceClassification": small for family, small in SEQUENCE.items()},
    **OTHERS,
}
# Their inputs are too much their own for a probe batch to be made: it is given to fold_temperature.
GIVEN = {
    "PerceiverForImageClassificationLearned": {**PERCEIVER, "image_size": 16},
    "PerceiverForSequenceClassification": {**PERCEIVER, "vocab_size": 50, "max_position_embeddings": 8},
}

D3, D4 = {"depths": [1] * 3}, {"depths": [1] * 4}
E4, L4 = {"embed_dims": [16] * 4}, {"layers": [1] * 4}
# Module of timm: an architecture of it, the side of its images, and what makes it small.
TIMM = {
    "beit": ("beit_base_patch16_224", 32, {"depth": 1, "img_size": 32}),
    "byoanet": ("lambda_resnet26t", 128, {}),
    "byobnet": ("test_byobnet", 32, {}),
    "cait": ("cait_xxs24_224", 32, {"embed_dim": 32, "init_values": 1.0, "img_size": 32}),
    "convit": ("convit_tiny", 32, {"depth": 1, "img_size": 32}),
    "convmixer": ("convmixer_1024_20_ks9_p14", 32, {}),
    "convnext": ("test_convnext", 32, {}),
    "cpubone": ("cpubone_nano", 32, {}),
    "crossvit": ("crossvit_tiny_240", 240, {"depth": [[1, 1, 0]]}),
    "csatv2": ("csatv2_21m", 64, {}),
    "cspnet": ("cs3darknet_focus_s", 32, {}),
    "cspnext": ("cspnext_tiny", 32, {}),
    "davit": ("davit_tiny", 32, D4),
    "deepseek_vit": ("deepseek_vit_412m", 56, {"depth": 1, "img_size": 56}),
    "deit": ("deit_tiny_distilled_patch16_224", 32, {"depth": 1, "img_size": 32}),
    "densenet": ("densenet121", 32, {"block_config": [1] * 4}),
    "dla": ("dla34", 32, {}),
    "dpn": ("dpn68", 32, {}),
    "edgenext": ("edgenext_xx_small", 32, D4),
    "efficientformer": ("efficientformer_l1", 224, E4 | D4),
    "efficientformer_v2": ("efficientformerv2_s0", 32, {**E4, "img_size": 32}),
    "efficientnet": ("test_efficientnet", 32, {}),
    "efficientvim": ("efficientvim_m1", 32, D3),
    "efficientvit_mit": ("efficientvit_b0", 32, D4),
    "efficientvit_msra": ("efficientvit_m0", 64, {"img_size": 64}),
    "eva": ("vit_pe_core_tiny_patch16_384", 32, {"depth": 1, "img_size": 32}),
    "fasternet": ("fasternet_t0", 32, {}),
    "fastvit": ("fastvit_t8", 32, E4),
    "focalnet": ("focalnet_tiny_srf", 32, {}),
    "gcvit": ("gcvit_xxtiny", 32, {"embed_dim": 32, "img_size": 32}),
    "gemma4_vit": ("gemma4_vit_167m", 32, {"embed_dim": 32}),
    "ghostnet": ("ghostnet_050", 32, {}),
    "hardcorenas": ("hardcorenas_a", 32, {}),
    "hgnet": ("hgnetv2_b0", 32, {}),
    "hiera": ("hiera_tiny_224", 32, {"embed_dim": 32, "img_size": 32}),
    "hieradet_sam2": ("sam2_hiera_tiny", 32, {"embed_dim": 32}),
    "hrnet": ("hrnet_w18_small", 32, {}),
    "iformer": ("iformer_t", 32, {}),
    "inception_next": ("inception_next_atto", 32, {}),
    "inception_v3": ("inception_v3", 96, {}),
    "lcnetv2": ("lcnetv2_small", 32, D4),
    "levit": ("levit_128s", 32, {"depth": [1] * 3, "img_size": 32}),
    "lowformer": ("lowformer_b0", 32, {}),
    "mambaout": ("test_mambaout", 32, {}),
    "maxxvit": ("test_maxvit", 32, {"img_size": 32}),
    "metaformer": ("poolformerv2_s12", 32, {}),
    "mlp_mixer": ("gmlp_ti16_224", 32, {"img_size": 32}),
    "mobilenetv3": ("lcnet_035", 32, {}),
    "mobilevit": ("mobilevit_xxs", 32, {}),
    "mvitv2": ("mvitv2_tiny", 32, {"img_size": 32}),
    "naflexvit": ("naflexvit_base_patch16_gap", 32, {"depth": 1, "embed_dim": 64, "num_heads": 2}),
    "nest": ("nest_tiny", 32, {"img_size": 32}),
    "nextvit": ("nextvit_small", 32, {}),
    "nfnet": ("test_nfnet", 32, {}),
    "pit": ("pit_ti_distilled_224", 32, {"depth": [1] * 3, "img_size": 32}),
    "pvt_v2": ("pvt_v2_b0", 32, D4),
    "qwen3_vit": ("qwen3_vit_88m", 32, {"depth": 1}),
    "rdnet": ("rdnet_tiny", 32, {"num_blocks_list": [1] * 7}),
    "regnet": ("regnetx_004", 32, {}),
    "repghost": ("repghostnet_050", 32, {}),
    "repvit": ("repvit_m0_9", 32, {}),
    "res2net": ("res2net50_26w_4s", 32, L4),
    "resnest": ("resnest26d", 32, L4),
    "resnet": ("test_resnet", 32, {"in_chans": 1}),
    "resnetv2": ("resnetv2_18", 32, {"layers": [1] * 3}),
    "rexnet": ("rexnet_100", 32, {}),
    "selecsls": ("selecsls42", 32, {}),
    "senet": ("legacy_seresnet18", 32, L4),
    "sequencer": ("sequencer2d_s", 32, {**E4, "img_size": 32}),
    "shvit": ("shvit_s1", 32, {"depth": [1] * 3}),
    "sknet": ("skresnet18", 32, L4),
    "starnet": ("starnet_s050", 32, {}),
    "swiftformer": ("swiftformer_xs", 32, {**E4, "img_size": 32}),
    "swin_transformer": ("swin_tiny_patch4_window7_224", 32, {**D3, "img_size": 32}),
    "swin_transformer_v2": ("swinv2_tiny_window16_256", 32, {**D3, "img_size": 32}),
    "swin_transformer_v2_cr": ("swinv2_cr_tiny_224", 32, {**D3, "img_size": 32}),
    "tiny_vit": ("tiny_vit_5m_224", 32, D4),
    "tnt": ("tnt_s_legacy_patch16_224", 32, {"depth": 1, "img_size": 32}),
    "tresnet": ("tresnet_m", 32, L4),
    "twins": ("twins_svt_small", 32, {**E4, "img_size": 32}),
    "visformer": ("visformer_tiny", 32, {"embed_dim": 32, "img_size": 32}),
    "vision_transformer": ("test_vit", 32, {"img_size": 32}),
    "vision_transformer_hybrid": ("vit_tiny_r_s16_p8_224", 32, {"depth": 1, "img_size": 32}),
    "vision_transformer_relpos": ("test_vit_relpos", 32, {"img_size": 32}),
    "vision_transformer_sam": (
        "samvit_base_patch16_224",
        32,
        {"depth": 1, "embed_dim": 64, "num_heads": 2, "img_size": 32},
    ),
    "vitamin": ("vitamin_small_224", 32, {"depth": 1, "img_size": 32}),
    "volo": ("volo_d1_224", 32, {"img_size": 32}),  # logits: a head plus the maximum over patches of another
    "vovnet": ("ese_vovnet19b_slim_dw", 32, {}),
    "xception": ("legacy_xception", 32, {}),
    "xception_aligned": ("xception41", 32, {}),
    "xcit": ("xcit_nano_12_p8_224", 32, {"embed_dim": 32, "img_size": 32}),
}
# Networks that cannot be made small.
LARGE = {
    "inception_resnet_v2": ("inception_resnet_v2", 96, {}),
    "inception_v4": ("inception_v4", 96, {}),
    "mobilenetv5": ("mobilenetv5_base", 32, {}),
    "nasnet": ("nasnetalarge", 32, {}),
    "pnasnet": ("pnasnet5large", 32, {}),
    "vgg": ("vgg11", 32, {}),
}
# Its heads fold, but save_pretrained refuses the weights that its layers share.
UNSAVABLE = {"coat": ("coat_tiny", 32, {**E4, "img_size": 32})}


def transformers_config(name):
    config = getattr(transformers, name).config_class(**{**TRANSFORMERS, **GIVEN}[name])
    config.num_labels = NUM_LABELS
    return config


def transformers_model(name):
    torch.manual_seed(0)
    return getattr(transformers, name)(transformers_config(name))


# Of the timm that the tables name; what an older one lacks is skipped, and so is a family that it fails to load.
OLD_TIMM = tuple(map(int, timm.__version__.split(".")[:3])) < (1, 0, 31)
FAILS_IN_OLD = ("regnet",)  # it asks for unique numbers of tensors on the meta device


def timm_model(module):
    torch.manual_seed(0)
    architecture, size, model_args = {**TIMM, **LARGE, **UNSAVABLE}[module]
    if OLD_TIMM and (module in FAILS_IN_OLD or not timm.is_model(architecture)):
        pytest.skip(f"timm {timm.__version__} has no {architecture} that can be loaded")
    config = TimmWrapperConfig.from_dict(
        {
            "architecture": architecture,
            "num_classes": NUM_LABELS,
            "label_names": [f"class {i}" for i in range(NUM_LABELS)],
            "model_args": model_args,
            "pretrained_cfg": {"input_size": [model_args.get("in_chans", 3), size, size]},
        }
    )
    model = AutoModelForImageClassification.from_config(config)
    # The wrapper draws all but the head almost 0; these weights are those of timm.
    model.timm_model.load_state_dict(
        timm.create_model(architecture, num_classes=NUM_LABELS, **model_args).state_dict()
    )
    return model


def inputs_for(model):
    generator = torch.Generator().manual_seed(1)
    name, config = type(model).__name__, model.config
    if model.main_input_name == "input_ids" or name == "PerceiverForSequenceClassification":
        tokens = torch.randint(3, 48, (2, 8), generator=generator)
        tokens[:, -1] = 2  # read as the end by encoder-decoder models
        return {model.main_input_name: tokens, "attention_mask": torch.ones_like(tokens)}
    if name == "Siglip2ForImageClassification":
        patches = torch.randn(2, 6, 4 * 4 * 3, generator=generator)
        return {"pixel_values": patches, "spatial_shapes": torch.tensor([[2, 3], [3, 2]])} | {
            "pixel_attention_mask": torch.ones(2, 6).long()
        }
    if hasattr(model, "timm_model"):
        shape = config.pretrained_cfg["input_size"]
    else:
        vision = getattr(config, "vision_config", config)
        size = getattr(vision, "image_size", 32)
        shape = (getattr(vision, "num_channels", 3), *((size, size) if isinstance(size, int) else size))
    return {model.main_input_name: torch.randn(4, *shape, generator=generator)}


def logits_of(model, inputs):
    with torch.no_grad():
        outputs = model(**inputs)
    return (outputs.logits if hasattr(outputs, "logits") else outputs[0]).double().numpy()


def with_unit_head(model, inputs):
    """
    Heads start at almost 0 in some families, and features do in networks whose batch normalisation has seen no image:
    logits of unit scale, different for different inputs, make the comparison mean something.
    """
    norms = [module for module in model.modules() if isinstance(module, torch.nn.modules.batchnorm._BatchNorm)]
    heads = [parameter for parameter in model.parameters() if parameter.shape[:1] == (NUM_LABELS,)]
    with torch.no_grad():
        if norms:
            for module in norms:
                # All but 1 for the deep networks of timm, which would blow rounding errors up.
                module.momentum = 0.97 if hasattr(model, "timm_model") else 1.0
            model.train()(**inputs)
        for parameter in heads:
            parameter.normal_() if parameter.dim() > 1 else parameter.zero_()
        scale = 1 / float(np.std(logits_of(model.eval(), inputs)))
        for parameter in heads:
            parameter.mul_(scale) if parameter.dim() > 1 else parameter.normal_()
    return model


SERVER = """
import json, sys, traceback
sys.modules["hf_focal"] = None  # importing it fails from here on
import torch, transformers
from safetensors.torch import load_file
for line in sys.stdin:
    folder, auto = json.loads(line)
    try:
        model = getattr(transformers, auto).from_pretrained(folder).eval()
        with torch.no_grad():
            outputs = model(**load_file(folder + "/inputs.safetensors"))
        logits = outputs.logits if hasattr(outputs, "logits") else outputs[0]
        answer = {"class": type(model).__name__, "probabilities": logits.softmax(-1).double().tolist()}
    except Exception:
        answer = {"error": traceback.format_exc()}
    print(json.dumps(answer), flush=True)
"""


@pytest.fixture(scope="module")
def stranger():
    """Loads folders in one process without hf_focal: `stranger(folder, name of an Auto class)`."""
    command = [sys.executable, "-c", SERVER]
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.DEVNULL, "text": True}
    with subprocess.Popen(command, **pipes) as process:

        def ask(folder, auto):
            print(json.dumps([str(folder), auto]), file=process.stdin, flush=True)
            answer = json.loads(process.stdout.readline())
            assert "error" not in answer, answer["error"]
            return answer["class"], np.array(answer["probabilities"])

        yield ask
        process.stdin.close()


def auto_class(model):
    for task in ("Token", "Sequence"):
        if f"For{task}Classification" in type(model).__name__:
            return f"AutoModelFor{task}Classification"
    return "AutoModelForImageClassification"


def check_family(model, folder, stranger, given=False):
    inputs = inputs_for(model)
    logits = logits_of(with_unit_head(model, inputs), inputs)
    expected = softmax(logits / TEMPERATURE, axis=-1)
    assert np.ptp(logits) > 0.5 and np.abs(expected - softmax(logits, axis=-1)).max() > 0.05
    assert np.abs(logits[0] - logits[1]).max() > 1e-3  # not the bias alone
    if given:
        with pytest.raises(ValueError, match=f"probe batch for {type(model).__name__}.*inputs="):
            fold_temperature(model, TEMPERATURE)
    fold_temperature(model, TEMPERATURE, inputs=inputs if given else None)
    model.save_pretrained(folder)
    save_file(inputs, folder / "inputs.safetensors")
    name, probabilities = stranger(folder, auto_class(model))
    assert name == type(model).__name__
    assert np.abs(probabilities - expected).max() < 1e-5
    unfold_temperature(model, inputs=inputs if given else None)
    assert np.abs(logits_of(model, inputs) - logits).max() < 1e-5 * np.abs(logits).max()


@pytest.mark.parametrize("name", TRANSFORMERS)
def test_a_folded_transformers_family_is_calibrated_for_a_stranger(name, tmp_path, stranger):
    check_family(transformers_model(name), tmp_path, stranger)


@pytest.mark.parametrize("name", GIVEN)
def test_a_family_with_inputs_of_its_own_folds_once_they_are_given(name, tmp_path, stranger):
    check_family(transformers_model(name), tmp_path, stranger, given=True)


@pytest.mark.parametrize("module", [*TIMM, *(pytest.param(module, marks=pytest.mark.slow) for module in LARGE)])
def test_a_folded_timm_family_is_calibrated_for_a_stranger(module, tmp_path, stranger):
    model = timm_model(module)
    assert timm.models.is_model_in_modules(model.config.architecture, [module])
    check_family(model, tmp_path, stranger)


@pytest.mark.parametrize("module", UNSAVABLE)
def test_a_folded_timm_family_that_cannot_be_saved_is_calibrated_here(module, tmp_path):
    model = timm_model(module)
    inputs = inputs_for(model)
    logits = logits_of(with_unit_head(model, inputs), inputs)
    with pytest.raises(RuntimeError, match="shared tensors"):
        model.save_pretrained(tmp_path)  # folded or not
    fold_temperature(model, TEMPERATURE)
    assert np.abs(logits_of(model, inputs) - logits / TEMPERATURE).max() < 1e-5 * np.abs(logits).max()


def test_the_tables_name_as_many_families_as_they_claim():
    families = {transformers_config(name).model_type for name in {**TRANSFORMERS, **GIVEN}}
    assert len(families) >= 80
    assert len(TIMM) >= 90
    assert OLD_TIMM or {*TIMM, *LARGE, *UNSAVABLE} <= set(timm.list_modules())


class CosineHead(torch.nn.Linear):
    """The angle between features and weights, whatever their sizes."""

    def forward(self, features):
        cosine = torch.nn.functional.normalize(features, dim=-1) @ torch.nn.functional.normalize(self.weight).T
        return 20 * cosine


class LogProbabilities(torch.nn.Linear):
    """Normalised after the head: softmax gives the same, but half the weights do not give half the outputs."""

    def forward(self, features):
        return super().forward(features).log_softmax(-1)


class NoLinear(torch.nn.Module):
    def __init__(self, in_features, out_features):
        super().__init__()
        self.weight = torch.nn.Parameter(torch.randn(in_features, out_features))

    def forward(self, features):
        return features @ self.weight


class NormalizedWeights(torch.nn.Linear):
    def __init__(self, *args):
        super().__init__(*args)
        torch.nn.utils.parametrizations.weight_norm(self)


UNFOLDABLE = {
    CosineHead: "none of its linear layers.*scales the logits",
    LogProbabilities: "none of its linear layers.*scales the logits",
    NormalizedWeights: "none of its linear layers.*scales the logits",
    NoLinear: f"no linear layer with {NUM_LABELS} floating point outputs",
}


@pytest.mark.parametrize("head", UNFOLDABLE)
def test_a_head_that_cannot_be_folded_is_refused_and_the_config_route_taken(head, tmp_path):
    model = transformers_model("ViTForImageClassification")
    model.classifier = head(SMALL["hidden_size"], NUM_LABELS)
    weights = {key: value.clone() for key, value in model.state_dict().items()}
    with pytest.raises(ValueError, match=f"Cannot fold.*{UNFOLDABLE[head]}.*fold=False"):
        fold_temperature(model, TEMPERATURE)
    assert all(torch.equal(value, weights[key]) for key, value in model.state_dict().items())
    images = torch.randn(24, 3, 16, 16, generator=torch.Generator().manual_seed(0))
    labels = logits_of(model.eval(), {"pixel_values": images}).argmax(axis=1)
    labels[::2] = 0  # a model that is right about half the time
    data = Dataset.from_dict({"pixel_values": images.tolist(), "labels": labels.tolist()}).with_format("torch")
    args = CalibrationTrainingArguments(
        str(tmp_path), report_to="none", disable_tqdm=True, dataloader_pin_memory=False
    )
    trainer = CalibrationTrainer(model=model, args=args, eval_dataset=data)
    predictions = trainer.predict(data)
    with pytest.warns(UserWarning, match="24 samples"):
        fit = trainer.calibrate(predictions=predictions, fold=False)
    assert model.config.calibration["folded"] is False
    assert model.config.calibration["temperature"] == fit.temperature
    assert trainer.evaluate()["eval_nll"] == pytest.approx(fit.after["nll"], rel=1e-6)
    assert np.array_equal(trainer.predict(data).predictions, predictions.predictions)


@pytest.mark.parametrize("name", ["BertForSequenceClassification", "DeiTForImageClassificationWithTeacher"])
def test_a_head_as_wide_as_the_layers_before_it_is_found(name, monkeypatch):
    monkeypatch.setitem(globals(), "NUM_LABELS", SMALL["hidden_size"])
    model = transformers_model(name)
    inputs = inputs_for(model)
    logits = logits_of(model.eval(), inputs)
    weights = {key: value.clone() for key, value in model.state_dict().items()}
    fold_temperature(model, TEMPERATURE)
    assert np.abs(logits_of(model, inputs) - logits / TEMPERATURE).max() < 1e-5 * np.abs(logits).max()
    changed = {key for key, value in model.state_dict().items() if not torch.equal(value, weights[key])}
    assert all("classifier" in key for key in changed)


def test_a_second_head_of_almost_no_weight_is_divided_as_well():
    model = transformers_model("DeiTForImageClassificationWithTeacher").eval()
    with torch.no_grad():
        model.cls_classifier.weight.mul_(1e-6)
        weight = model.cls_classifier.weight.clone()
    fold_temperature(model, TEMPERATURE)
    assert torch.allclose(model.cls_classifier.weight * TEMPERATURE, weight, rtol=1e-5, atol=0)


def test_a_probe_that_the_model_cannot_take_is_an_error_that_names_the_remedy():
    model = transformers_model("ViTForImageClassification")
    inputs = inputs_for(model)
    logits = logits_of(model.eval(), inputs)
    model.config.image_size = 24  # not what it was built for
    with pytest.raises(ValueError, match=r"ViTForImageClassification fails on.*\(2, 3, 24, 24\)(.|\n)*inputs="):
        fold_temperature(model, TEMPERATURE)
    assert np.array_equal(logits_of(model, inputs), logits)
    fold_temperature(model, TEMPERATURE, inputs=inputs)


def test_the_probe_has_the_size_and_channels_that_a_timm_network_was_built_with():
    arguments = {"in_chans": 1, "img_size": 32, "depth": 1}
    fields = {"architecture": "deit_tiny_patch16_224", "num_classes": NUM_LABELS, "model_args": arguments}
    labels = [f"class {index}" for index in range(NUM_LABELS)]
    for known in ({}, {"pretrained_cfg": {"input_size": [3, 160, 160]}}, {"pretrained_cfg": {"crop_pct": 1.0}}):
        config = TimmWrapperConfig.from_dict({**fields, **known, "label_names": labels})
        model = AutoModelForImageClassification.from_config(config)
        assert fold_temperature(model, TEMPERATURE).config.calibration["folded"]
