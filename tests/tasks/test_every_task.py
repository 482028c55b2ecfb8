# Copyright 2026 The hf_focal authors. Licensed under the Apache License, Version 2.0.
"""Every task that is registered, and one that is registered here: from a folder of data to a calibrated checkpoint."""

import json
import re
import runpy
import sys
from types import SimpleNamespace

import numpy as np
import pytest
import small_zero_shot
import torch
import transformers
from conftest import ROOT
from datasets import ClassLabel, Dataset, DatasetDict, Features, Image, List, Value
from PIL import Image as PILImage
from safetensors.numpy import load_file
from scipy.special import softmax
from small_models import arguments
from small_texts import SIZES, sentences
from transformers import (
    AutoModelForSequenceClassification,
    BertConfig,
    DataCollatorWithPadding,
    ViTConfig,
    ViTImageProcessor,
    Wav2Vec2Config,
    Wav2Vec2FeatureExtractor,
    default_data_collator,
)

import hf_focal
from hf_focal import (
    TASKS,
    About,
    CalibrationTrainer,
    Task,
    create_model_card,
    create_text_classifier,
    fold_temperature,
    from_pretrained,
    get_task,
    pipeline,
    register_task,
)
from hf_focal.calibrators import TemperatureScaling
from hf_focal.hub.load import load_processor
from hf_focal.models.fold import unfold_temperature
from hf_focal.predictions import Predictions
from hf_focal.tasks import AudioClassification, task_of
from hf_focal.tasks.base import canonical_task
from hf_focal.tasks.columns import Column, is_text
from hf_focal.tasks.text import prepare_tokenizer, tokenize, train_tokenizer


pytestmark = pytest.mark.filterwarnings("ignore:The best temperature", "ignore:The temperature is fitted on")

NAMES = ["low", "middle", "high"]
CLASS = ClassLabel(names=NAMES)
PLUGIN = "question-classification"


class QuestionClassification(Task):
    """As somebody may write one in a file of theirs: rows come in pairs."""

    name = PLUGIN
    suffix = "ForQuestions"
    auto_class = AutoModelForSequenceClassification
    processor = "tokenizer"
    input = Column("question", "questions", is_text, ("question",))
    unit = "questions"
    group = "pair"
    example = "What is it?"

    def prepare(self, model, processor, max_length=None):
        prepare_tokenizer(model, processor, max_length)

    def encode(self, data, processor):
        return tokenize(data.rename_column("question", "text"), processor)

    def flatten(self, output, split="test"):
        rows = Predictions.flatten(output, split)
        return Predictions(rows.logits, rows.labels, np.arange(len(rows)) // 2, split)


# ---- A data set of each, with columns of names that tell nothing, and a config and processor of a tiny model --------


def classes(count):
    return [index % 3 for index in range(count)]


def images(count):
    pixels = np.random.default_rng(0).integers(0, 255, (count, 8, 8, 3)).astype(np.uint8)
    return [PILImage.fromarray(image) for image in pixels], Image(), classes(count), CLASS


def texts(count):
    return sentences(count), Value("string"), classes(count), CLASS


def words(count):
    rows = [sentence.split() for sentence in sentences(count)]
    labels = [[(place + len(row)) % 3 for place in range(len(row))] for row in rows]
    return rows, List(Value("string")), labels, List(CLASS)


def sounds(count):
    generator = np.random.default_rng(0)
    waves = [np.sin(np.arange(generator.integers(400, 800)) * (0.05 + 0.1 * label)) for label in classes(count)]
    noisy = [wave + generator.normal(size=len(wave)) for wave in waves]
    cells = [{"array": wave.astype(np.float32), "sampling_rate": 16_000} for wave in noisy]
    return cells, {"array": List(Value("float32")), "sampling_rate": Value("int32")}, classes(count), CLASS


def vit():
    return ViTConfig(**SIZES, image_size=8, patch_size=4), ViTImageProcessor(size={"height": 8, "width": 8})


def clip():
    model, processor = small_zero_shot.clip(image_size=8)
    return model.config, processor


def bert():
    tokenizer = train_tokenizer(sentences(50))
    return BertConfig(vocab_size=len(tokenizer), **SIZES, max_position_embeddings=32), tokenizer


def wav2vec2():
    conv = {"conv_dim": (8, 8), "conv_stride": (4, 4), "conv_kernel": (8, 8), "num_conv_pos_embeddings": 16}
    conv |= {"num_conv_pos_embedding_groups": 2, "classifier_proj_size": 8, "mask_time_prob": 0.0}
    return Wav2Vec2Config(**SIZES, **conv), Wav2Vec2FeatureExtractor()


CASES = {
    "image-classification": (images, vit),
    "text-classification": (texts, bert),
    "token-classification": (words, bert),
    "audio-classification": (sounds, wav2vec2),
    "zero-shot-image-classification": (images, clip),
    PLUGIN: (texts, bert),
}


def head(model):
    """What a temperature divides."""
    return model.logit_scale.exp() if hasattr(model, "logit_scale") else model.classifier.weight


@pytest.fixture(params=[*TASKS, PLUGIN])
def task(request):
    if request.param not in CASES:
        pytest.fail(f"{request.param} needs a small data set and model in CASES.")
    if request.param == PLUGIN:
        register_task(QuestionClassification)
    yield get_task(request.param)
    TASKS.pop(PLUGIN, None)


def saved_data(folder, task, count=12, splits=("train", "test"), names=("a", "b")):
    inputs, feature, labels, label_feature = CASES[task.name][0](count)
    features = Features({"row": Value("int64"), names[0]: feature, names[1]: label_feature})
    columns = {"row": list(range(count)), names[0]: inputs, names[1]: labels}
    DatasetDict(dict.fromkeys(splits, Dataset.from_dict(columns, features=features))).save_to_disk(str(folder))
    return str(folder)


def made(task, names=NAMES):
    config, processor = CASES[task.name][1]()
    config.update({"id2label": dict(enumerate(names)), "label2id": {name: i for i, name in enumerate(names)}})
    torch.manual_seed(0)
    model = task.auto_class.from_config(config).eval()
    task.prepare(model, processor, None)
    assert task.class_names_for(model, processor, names) == names
    return model, processor


def batch_of(task, data, processor):
    encoded = task.encode(data, processor)
    plain = DataCollatorWithPadding(processor) if task.processor == "tokenizer" else default_data_collator
    return (task.collator(processor) or plain)([encoded[index] for index in range(len(encoded))])


# ---- Data -----------------------------------------------------------------------------------------------------------


def test_columns_are_found_by_type_or_by_flag_and_get_their_plain_names(task, tmp_path):
    folder = saved_data(tmp_path, task)
    found, told = task.load(folder), task.load(folder, None, "a", "b")
    inputs, _, labels, _ = CASES[task.name][0](12)
    for splits in (found, told, task.load_dataset(folder, holdout=0.25)):
        assert all(data.column_names == [task.input.name, task.label.name] for data in splits.values())
        assert splits["test"][task.label.name][:] == labels and task.class_names(splits["test"]) == NAMES
        assert len(splits["test"][task.input.name][:]) == len(inputs)
    with pytest.raises(ValueError, match=rf"no column 'c'; its columns are row, a, b. Set .*{task.column_flag}"):
        task.load(folder, None, "c")
    with pytest.raises(ValueError, match="no column 'c'; its columns are row, a, b. Set .*--label_column_name"):
        task.load(folder, None, None, "c")
    with pytest.raises(ValueError, match="'a' cannot hold both the"):
        task.load(folder, None, "a", "a")


def test_classes_become_those_of_the_model_by_name(task, tmp_path):
    data = task.load(saved_data(tmp_path, task))["test"]
    order = ["HIGH", "low", "Middle"]
    matched = task.match_classes(data, order)
    assert task.class_names(matched) == order
    before, after = (np.hstack(part[task.label.name][:]) for part in (data, matched))
    assert [order[label].lower() for label in after] == [NAMES[label] for label in before]
    with pytest.raises(ValueError, match="does not know the classes 'middle'"):
        task.match_classes(data, ["high", "low", "none"])


# ---- Inputs and outputs ---------------------------------------------------------------------------------------------


def test_a_model_takes_the_batch_and_its_output_is_flattened(task, tmp_path):
    data = task.load(saved_data(tmp_path, task))["test"]
    model, processor = made(task)
    batch = batch_of(task, data, processor)
    with torch.no_grad():
        logits = model(**{key: value for key, value in batch.items() if key != "labels"}).logits
    output = SimpleNamespace(predictions=logits.numpy(), label_ids=batch["labels"].numpy())
    rows = task.flatten(output, "dev")
    expected = np.hstack(data[task.label.name][:])
    assert rows.labels.tolist() == expected.tolist() and rows.split == "dev"
    assert rows.logits.shape == (len(expected), 3)
    assert (rows.groups is None) is (task.group is None)
    if rows.groups is not None:
        assert len(rows.groups) == len(expected) and np.all(np.diff(rows.groups) >= 0)


def test_the_head_is_found_on_the_probe_batch(task):
    model, _ = made(task)
    before = head(model).clone()
    fold_temperature(model, 2.0)
    torch.testing.assert_close(head(model), before / 2)
    unfold_temperature(model)


def test_a_checkpoint_is_known_by_its_config_and_loads_with_its_processor(task, tmp_path):
    model, processor = made(task)
    model.save_pretrained(tmp_path)
    processor.save_pretrained(tmp_path)
    loaded = from_pretrained(tmp_path, task=task.name)
    assert type(loaded) is type(model)
    assert type(load_processor(tmp_path, task.name, loaded)).__name__ == type(processor).__name__
    if task.name != PLUGIN:
        assert task_of(loaded) is task_of(loaded.config) is task


def test_the_card_tells_its_example(task):
    about = About("m", task.name, {"temperature": 2.0, "folded": True})
    card = create_model_card(about).content
    assert f'pipeline("{task.name}"' in card and f'classifier("{task.example}"{task.example_options})' in card
    assert task.example != Task.example and task.card_note in card


# ---- The script -----------------------------------------------------------------------------------------------------


def calibrate(monkeypatch, model, data, out, *flags):
    script = str(ROOT / "scripts" / "calibrate.py")
    arguments = ["--model_name_or_path", str(model), "--dataset_name", str(data), "--output_dir", str(out)]
    monkeypatch.setattr(sys, "argv", [script, *arguments, "--use_cpu", "--disable_tqdm", "true", *flags])
    runpy.run_path(script, run_name="__main__")
    return json.loads((out / "all_results.json").read_text())


def test_the_script_calibrates_it(task, tmp_path, monkeypatch, capsys):
    model, processor = made(task, NAMES[::-1])
    if hasattr(model, "classifier"):
        torch.nn.init.normal_(model.classifier.weight)
    model.save_pretrained(tmp_path / "model")
    processor.save_pretrained(tmp_path / "model")
    data = saved_data(tmp_path / "data", task, 60, ("validation", "test"), names=("input", "kind"))
    flags = ["--task", task.name, "--input_column_name", "input", "--label_column_name", "kind"]
    flags += ["--temperature_guard", "false"]
    if hasattr(model, "logit_scale"):  # whose classes would be those of the data
        flags += ["--candidate_labels", *NAMES[::-1]]
    # The labels have nothing to do with the logits, so that the best temperature would be none to fold.
    monkeypatch.setattr(TemperatureScaling, "fit", classmethod(lambda cls, *_, **__: cls(2.0)))
    results = calibrate(monkeypatch, tmp_path / "model", data, tmp_path / "out", *flags)
    record = json.loads((tmp_path / "out" / "config.json").read_text())["calibration"]
    assert record["folded"] is True and record["temperature"] == results["temperature"] == 2
    arrays = load_file(tmp_path / "out" / "predictions.safetensors")
    names = task.class_names(task.load(data)["test"])
    expected = [NAMES[::-1].index(names[label]) for label in np.hstack(CASES[task.name][0](60)[2])]
    assert arrays["test_labels"].tolist() == expected
    assert ("test_sentences" in arrays) is (task.group is not None)
    if task.name == PLUGIN:
        assert arrays["test_sentences"].tolist() == [row // 2 for row in range(60)]
    table = capsys.readouterr().out
    counted = "test" if task.unit == "samples" else f"test {task.unit}"
    assert re.search(rf"^{counted} +before +after", table, flags=re.MULTILINE)
    assert (f"intervals, by {task.group}." in " ".join(table.split())) is (task.group is not None)
    loaded = from_pretrained(tmp_path / "out", task=task.name)
    torch.testing.assert_close(head(loaded), head(model) / results["temperature"])


# ---- The registry ---------------------------------------------------------------------------------------------------


def test_an_unknown_task_is_refused_with_the_names_of_all():
    with pytest.raises(ValueError) as error:
        get_task("question-answering")
    assert all(name in str(error.value) for name in TASKS) and "'question-answering'" in str(error.value)
    assert get_task("sentiment-analysis") is TASKS["text-classification"] and get_task("ner").unit == "tokens"


def tiny(name):
    """A model for a task."""
    config, _ = CASES[name][1]()
    config.num_labels = 2
    return get_task(name).auto_class.from_config(config)


@pytest.mark.parametrize("alias", ["sentiment-analysis", "ner", "text-to-speech"])
def test_names_that_transformers_takes_are_taken_everywhere(alias, tmp_path):
    name = transformers.pipelines.check_task(alias)[0]  # what a pipeline makes of it
    assert name != alias and canonical_task(alias) == name
    card = create_model_card(About("a", alias, {"temperature": 2.0, "folded": True}))
    assert card.data.pipeline_tag == name and f'pipeline("{name}"' in str(card)
    if name not in TASKS:
        return
    task, model = TASKS[name], tiny(name)
    assert create_text_classifier("small-bert", ["x", "y"], texts=["a b"], task=alias)[0].num_labels == 2
    trainer = CalibrationTrainer(model=model, args=arguments(tmp_path))
    trainer.task_name = alias
    assert trainer.task is task
    model.save_pretrained(tmp_path)
    assert type(from_pretrained(tmp_path, task=alias)) is type(model)


def test_pipelines_of_no_task_of_ours_are_refused_with_the_names_of_all(tmp_path):
    tiny("text-classification").save_pretrained(tmp_path)
    for name in ("zero-shot-classification", "text-clasification", ""):
        with pytest.raises(ValueError, match=f"Supported: image-classification .* Got task='{name}'"):
            from_pretrained(tmp_path, task=name or " ") if name else get_task(name)
        with pytest.raises(ValueError, match="Supported: image-classification"):
            pipeline(name or " ", model=str(tmp_path))


def test_a_head_of_another_task_does_not_pass_for_one_of_this(tmp_path):
    """The names and shapes of their weights are the same."""
    tiny("text-classification").save_pretrained(tmp_path)
    with pytest.raises(ValueError, match="is a model for text-classification, not for token-classification"):
        from_pretrained(tmp_path, task="ner")
    with pytest.raises(ValueError, match="is a model for token-classification, not for text-classification"):
        pipeline("sentiment-analysis", model=tiny("token-classification"), tokenizer="any")


def test_a_name_is_taken_once():
    with pytest.raises(ValueError, match="a task 'audio-classification' already"):
        register_task(AudioClassification)


def test_the_task_of_a_config_is_told_by_the_model_not_by_its_ending():
    for names, expected in (
        (["Wav2Vec2ForSequenceClassification"], "audio-classification"),
        (["BertForSequenceClassification"], "text-classification"),
        (["PerceiverForImageClassificationLearned"], "image-classification"),
        (["BertModel"], None),
        (None, None),
    ):
        found = task_of(SimpleNamespace(architectures=names))
        assert (found and found.name) == expected


def test_the_task_of_a_model_is_that_of_its_class_whatever_wraps_it_or_its_config_says():
    peft = pytest.importorskip("peft")
    sounds_, texts = tiny("audio-classification"), tiny("text-classification")

    class MineForSequenceClassification(type(sounds_)):
        pass

    mine = MineForSequenceClassification(sounds_.config)
    settings = peft.LoraConfig(task_type="SEQ_CLS", target_modules=["q_proj"])
    for model in (sounds_, mine, torch.compile(sounds_), peft.get_peft_model(mine, settings)):
        assert task_of(model).name == "audio-classification"
    tokens = tiny("token-classification")
    tokens.config.architectures = ["BertForSequenceClassification"]  # of the checkpoint that it was loaded from
    assert task_of(tokens).name == "token-classification" and task_of(texts).name == "text-classification"


def test_a_model_of_no_known_task_gets_a_card_of_none(tmp_path):
    sizes = {"hidden_size": 8, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 8}
    config = transformers.VideoMAEConfig(**sizes, image_size=8, patch_size=4, num_frames=2, num_labels=2)
    video = transformers.VideoMAEForVideoClassification(config)

    class OddForSequenceClassification(type(video)):
        pass

    for model in (video, OddForSequenceClassification(config)):
        trainer = CalibrationTrainer(model=model, args=arguments(tmp_path))
        trainer.create_model_card()
        card = (tmp_path / "README.md").read_text()
        assert task_of(model) is None and trainer.task is None
        assert "pipeline_tag" not in card and "## Use" not in card and "text" not in card.split("## Training")[0]
        with pytest.raises(ValueError, match="is no classifier of a known kind. Supported: image-class"):
            pipeline(model=model)


# ---- Sounds ---------------------------------------------------------------------------------------------------------


def sound_data(cells, feature):
    features = Features({"audio": feature, "label": CLASS})
    return Dataset.from_dict({"audio": cells, "label": classes(len(cells))}, features=features)


def test_waveforms_without_a_rate_are_taken_for_the_models_and_others_are_refused(caplog):
    task, processor = get_task("audio-classification"), Wav2Vec2FeatureExtractor()
    cells, feature, _, _ = sounds(6)
    plain = sound_data([cell["array"] for cell in cells], feature["array"])
    expected = batch_of(task, sound_data(cells, feature), processor)
    assert not caplog.records
    found = batch_of(task, plain, processor)
    assert "no sampling rate: it is taken for 16000 Hz" in caplog.text
    torch.testing.assert_close(dict(found), dict(expected))
    slow = sound_data([{**cell, "sampling_rate": 8_000} for cell in cells], feature)
    with pytest.raises(ValueError, match="has 8000 Hz, the model takes 16000"):
        batch_of(task, slow, processor)


def test_a_pipeline_of_sounds_gives_the_calibrated_probabilities(tmp_path, monkeypatch):
    task = get_task("audio-classification")
    model, processor = made(task)
    if hasattr(model, "classifier"):
        torch.nn.init.normal_(model.classifier.weight)
    model.save_pretrained(tmp_path / "model")
    processor.save_pretrained(tmp_path / "model")
    data = saved_data(tmp_path / "data", task, 60, ("validation", "test"))
    results = calibrate(
        monkeypatch, tmp_path / "model", data, tmp_path / "out", "--no_fold_temperature", "--criterion", "nll"
    )
    assert "audio-classification" in (tmp_path / "out" / "README.md").read_text()
    classifier = hf_focal.pipeline(model=str(tmp_path / "out"))
    wave = sounds(1)[0][0]["array"]
    scores = {row["label"]: row["score"] for row in classifier(wave, top_k=None)}
    with torch.no_grad():
        logits = model(**processor(wave, sampling_rate=16_000, return_tensors="pt")).logits[0].double().numpy()
    expected = softmax(logits / results["temperature"])
    assert [scores[name] for name in NAMES] == pytest.approx(expected.tolist(), abs=1e-6)
