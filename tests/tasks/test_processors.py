# Copyright 2026 The hf_focal authors. Licensed under the Apache License, Version 2.0.
"""A model and what makes its inputs: told where it is missing, refused where it cannot be the model's."""

import logging

import pytest
import torch
from small_models import arguments, build, samples
from transformers import (
    BertConfig,
    BertForSequenceClassification,
    BertForTokenClassification,
    BertTokenizer,
    ByT5Tokenizer,
    CanineConfig,
    CanineForSequenceClassification,
    Gemma3TextConfig,
    T5Config,
    T5ForSequenceClassification,
    ViTImageProcessor,
    Wav2Vec2Config,
    Wav2Vec2FeatureExtractor,
    Wav2Vec2ForSequenceClassification,
)
from transformers.models.auto.modeling_auto import AutoModelForSequenceClassification

import hf_focal
from hf_focal import CalibrationTrainer, create_image_classifier, create_text_classifier, get_task, pipeline
from hf_focal.hub.load import load_processor
from hf_focal.hub.push import push_to_hub
from hf_focal.tasks.text import check_tokenizer


SPECIAL = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
SIZES = {"hidden_size": 8, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 8}


def bert(rows=30, cls=BertForSequenceClassification):
    return cls(BertConfig(vocab_size=rows, **SIZES))


def tokenizer(count):
    words = [*SPECIAL, *(f"w{index}" for index in range(count - len(SPECIAL)))]
    return BertTokenizer(vocab={word: index for index, word in enumerate(words)})


@pytest.fixture
def folder(tmp_path):
    return tmp_path / "model"


# ---- Loading --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("cls", [BertForSequenceClassification, BertForTokenClassification])
def test_a_made_up_tokenizer_is_refused_wherever_one_is_loaded(folder, cls):
    model, task = bert(cls=cls), "ner" if cls is BertForTokenClassification else "text-classification"
    model.save_pretrained(folder)
    for load in (
        lambda: pipeline(model=str(folder)),
        lambda: pipeline(task, model=model, tokenizer=str(folder)),
        lambda: load_processor(folder, task, model),
        lambda: create_text_classifier(str(folder), ["a", "b"], task=task),
    ):
        with pytest.raises(ValueError, match="holds no tokenizer.*made-up one of 5 special tokens.*save_pretrained"):
            load()
    with pytest.raises(ValueError, match="pipeline needs tokenizer=... beside a model that is loaded"):
        pipeline(task, model=model)
    tokenizer(30).save_pretrained(folder)
    assert pipeline(model=str(folder))("w1 w2")


@pytest.mark.parametrize(("count", "rows"), [(29, 300), (7, 3000)])
def test_a_tokenizer_of_another_model_is_refused(folder, count, rows):
    bert(rows).save_pretrained(folder)
    tokenizer(count).save_pretrained(folder)
    with pytest.raises(ValueError, match=f"has {count} tokens, and BertFor.* has embeddings of {rows}.*of another"):
        pipeline(model=str(folder))


def test_a_tokenizer_larger_than_the_embeddings_is_refused_unless_what_is_too_many_is_never_met(folder):
    model = bert(30)
    with pytest.raises(ValueError, match="has 33 tokens.*of 30, none for 3 of these tokens.*resize_token_embeddings"):
        check_tokenizer(model, tokenizer(33), folder)
    extended = tokenizer(30)
    extended.add_special_tokens({"additional_special_tokens": ["<image>"]})  # as Gemma's has
    check_tokenizer(model, extended, folder)
    extended.add_special_tokens({"pad_token": "<pad>"})
    with pytest.raises(ValueError, match="none for 1 of these tokens"):
        check_tokenizer(model, extended, folder)
    model.resize_token_embeddings(len(extended))
    check_tokenizer(model, extended, folder)


def test_padded_vocabularies_and_those_of_bytes_and_characters_are_taken(caplog):
    check_tokenizer(bert(64), tokenizer(33), "here")
    assert not caplog.records
    check_tokenizer(bert(100), tokenizer(33), "here")  # a config with the default size, perhaps
    assert "has 33 tokens, and BertForSequenceClassification has embeddings of 100: make sure" in caplog.text
    canine = CanineForSequenceClassification(CanineConfig(**SIZES, num_hash_buckets=8, num_hash_functions=2))
    t5 = T5ForSequenceClassification(T5Config(vocab_size=8000, d_model=8, d_kv=4, d_ff=8, num_layers=1, num_heads=2))
    check_tokenizer(t5, ByT5Tokenizer(), "here")
    assert get_task("text-classification").has_processor(canine.config, "nowhere")


@pytest.mark.parametrize(
    ("task", "what", "model"),
    [
        ("image-classification", "image processor", lambda: build("vit")),
        ("audio-classification", "feature extractor", lambda: audio()),
        ("text-classification", "tokenizer", lambda: gemma()),
    ],
)
def test_a_folder_without_what_makes_the_inputs_is_said_to_be_one(folder, task, what, model):
    model().save_pretrained(folder)
    with pytest.raises(ValueError, match=f"model (holds a model but|holds) no {what}.*save_pretrained"):
        pipeline(task, model=str(folder))


def audio():
    conv = {"conv_dim": (8, 8), "conv_stride": (4, 4), "conv_kernel": (8, 8), "num_conv_pos_embeddings": 16}
    conv |= {"num_conv_pos_embedding_groups": 2, "classifier_proj_size": 8, "mask_time_prob": 0.0}
    return Wav2Vec2ForSequenceClassification(Wav2Vec2Config(**SIZES, **conv, num_labels=3))


def gemma():
    sizes = {**SIZES, "num_key_value_heads": 1, "head_dim": 4, "vocab_size": 300, "num_labels": 2}
    return AutoModelForSequenceClassification.from_config(Gemma3TextConfig(**sizes))


# ---- Saving ---------------------------------------------------------------------------------------------------------


def trainer_of(kind, folder, **options):
    args = arguments(folder, save_strategy="epoch", num_train_epochs=2)
    return CalibrationTrainer(model=build(kind), args=args, train_dataset=samples(kind, 8), **options)


@pytest.mark.parametrize(
    ("kind", "what", "processor"),
    [
        ("bert", "tokenizer", lambda: tokenizer(40)),
        ("vit", "image processor", lambda: ViTImageProcessor(size={"height": 16, "width": 16})),
    ],
)
def test_saving_a_model_alone_is_told_once(folder, kind, what, processor, caplog):
    trainer = trainer_of(kind, folder)
    trainer.train()  # two checkpoints
    trainer.save_model()
    said = [record.getMessage() for record in caplog.records if "holds a model but no" in record.getMessage()]
    assert len(said) == 1 and f"{folder} holds a model but no {what}" in said[0]
    assert "processing_class=" in said[0] and ".save_pretrained(" in said[0]
    caplog.clear()
    trainer_of(kind, folder, processing_class=processor()).save_model()
    assert "holds a model" not in caplog.text
    trainer_of(kind, folder).save_model()  # beside what lies there already
    assert "holds a model" not in caplog.text


def test_pushing_a_model_alone_is_told(folder, caplog):
    bert().save_pretrained(folder)
    with pytest.raises(OSError, match="Cannot push"):  # there is no network
        push_to_hub(folder, "ann/model")
    assert f"{folder} holds a model but no tokenizer" in caplog.text
    caplog.clear()
    tokenizer(30).save_pretrained(folder)
    with pytest.raises(OSError, match="Cannot push"):
        push_to_hub(folder, "ann/model")
    assert "holds a model" not in caplog.text


def test_models_that_need_no_files_are_saved_and_loaded_without_a_word(folder, caplog):
    """timm's, whose image processor is in the config, and those of characters."""
    model, processor = create_image_classifier("test_vit", ["a", "b"], from_scratch=True, image_size=32)
    log = logging.getLogger("transformers")
    log.addHandler(caplog.handler)
    try:
        trainer = CalibrationTrainer(model=model, args=arguments(folder), processing_class=processor)
        trainer.save_model()
        assert trainer.processing_class is processor
        canine = CanineForSequenceClassification(CanineConfig(**SIZES, num_hash_buckets=8, num_hash_functions=2))
        CalibrationTrainer(model=canine, args=arguments(folder / "canine")).save_model()
        assert caplog.text == ""
        loaded = load_processor(folder, "image-classification", model)
        assert type(loaded) is type(processor) and "backend" not in caplog.text
    finally:
        log.removeHandler(caplog.handler)


def test_a_processor_of_sounds_is_saved_with_the_model(folder, caplog):
    extractor = Wav2Vec2FeatureExtractor()
    CalibrationTrainer(model=audio(), args=arguments(folder), processing_class=extractor).save_model()
    assert "holds a model" not in caplog.text
    score = pipeline("audio-classification", model=str(folder))(torch.zeros(400).numpy())[0]["score"]
    assert score >= 1 / 3 and hf_focal.get_task("audio-classification").unit == "samples"
