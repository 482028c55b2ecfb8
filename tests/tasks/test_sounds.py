# Copyright 2026 The hf_focal authors. Licensed under the Apache License, Version 2.0.
"""Sounds: recordings decoded and brought to a model's rate; models of them trained and calibrated."""

import io
import json
import sys

import numpy as np
import pytest
import torch
import transformers
from conftest import ROOT
from datasets import Audio, ClassLabel, Dataset, Features, List, Value
from launching import blocks, launch, run_main
from safetensors.numpy import load_file
from scipy.io import wavfile
from scipy.special import softmax
from small_texts import SIZES
from transformers import (
    ASTConfig,
    ASTFeatureExtractor,
    HubertConfig,
    Wav2Vec2Config,
    Wav2Vec2FeatureExtractor,
    WhisperConfig,
    WhisperFeatureExtractor,
)

import hf_focal
from hf_focal import create_audio_classifier, from_pretrained, get_task
from hf_focal.models.head import find_head
from hf_focal.tasks import sounds
from hf_focal.tasks.encoded_stream import EncodedStream
from hf_focal.tasks.streaming import load_streams


pytestmark = pytest.mark.filterwarnings("ignore:The best temperature", "ignore:The temperature is fitted on")

TASK = get_task("audio-classification")
NAMES = ["low", "high"]
RATE = 16_000
without_torchcodec = pytest.mark.skipif(sounds.has_torchcodec(), reason="torchcodec decodes")


# ---- Recordings -----------------------------------------------------------------------------------------------------


def tone(label, seed, rate=8_000, least=1_000):
    """A tone that its label tells, of a length of its own, with noise."""
    generator = np.random.default_rng(seed)
    times = np.arange(generator.integers(least, 2 * least)) / rate
    return 0.5 * np.sin(2 * np.pi * (200, 1500)[label] * times) + 0.1 * generator.normal(size=len(times))


def wav(wave, rate=8_000, dtype=np.int16):
    stored = io.BytesIO()
    scale = {np.int16: 32767, np.int32: 2**31 - 1, np.float32: 1}.get(dtype, 127)
    wavfile.write(stored, rate, (wave * scale + (128 if dtype is np.uint8 else 0)).astype(dtype))
    return stored.getvalue()


def stored(cells, labels):
    """As in a Parquet file: bytes of recordings."""
    sound = {"bytes": Value("binary"), "path": Value("string")}
    features = Features({"audio": sound, "label": ClassLabel(names=NAMES)})
    return Dataset.from_dict({"audio": cells, "label": labels}, features=features).cast_column("audio", Audio())


def recordings(count, seed=0):
    labels = [index % 2 for index in range(count)]
    waves = [tone(label, 1000 * seed + row) for row, label in enumerate(labels)]
    return stored([{"bytes": wav(wave), "path": None} for wave in waves], labels)


def cells_of(data):
    return data.cast_column("audio", Audio(decode=False))["audio"][:]


def parquet(folder, **counts):
    for seed, (split, count) in enumerate(counts.items()):
        recordings(count, seed).to_parquet(str(folder / f"{split}.parquet"))
    return str(folder)


@pytest.mark.parametrize("dtype", [np.int16, np.int32, np.uint8, np.float32])
@pytest.mark.parametrize("channels", [1, 2])
def test_wav_files_are_decoded_to_their_waveforms(dtype, channels):
    wave = tone(0, 0)
    both = wave if channels == 1 else np.stack([wave * 0.5, wave * 1.5], axis=1)
    cell = {"bytes": wav(both * 0.5, dtype=dtype), "path": None}
    found = sounds.waveform(cell, 8_000)
    assert found.dtype == np.float32 and np.abs(found - wave * 0.5).max() < {np.uint8: 0.02}.get(dtype, 1e-4)


class Decoder:
    """As `datasets` gives where torchcodec decodes."""

    def __init__(self, **cell):
        self.cell = cell

    def __getitem__(self, key):
        return self.cell[key]


def test_what_torchcodec_decodes_is_brought_to_the_rate_too():
    """A stream is not cast beforehand."""
    wave = tone(0, 0).astype(np.float32)
    expected = sounds.resampled(wave, 8_000, RATE)
    assert np.array_equal(sounds.waveform(Decoder(array=wave, sampling_rate=8_000), RATE), expected)
    assert np.array_equal(sounds.waveform(Decoder(array=expected, sampling_rate=RATE), RATE), expected)
    with pytest.raises(ValueError, match="has 8000 Hz, the model takes 16000: resample the data"):
        sounds.waveform({"array": wave, "sampling_rate": 8_000}, RATE)


def test_channels_of_numbers_are_to_be_mixed_first():
    features = Features({"audio": List(List(Value("float32"))), "label": ClassLabel(names=NAMES)})
    data = Dataset.from_dict({"audio": [np.zeros((2, 50))] * 2, "label": [0, 1]}, features=features)
    with pytest.raises(ValueError, match=r"one row of numbers, got the shape \(2, 50\): mix its channels"):
        TASK.encode(data, Wav2Vec2FeatureExtractor())[0]


def test_recordings_are_brought_to_the_rate_of_the_model():
    seconds = np.arange(8_000) / 8_000
    wave = np.sin(2 * np.pi * 440 * seconds)
    found = sounds.waveform({"bytes": wav(wave * 0.9), "path": None}, RATE)
    expected = 0.9 * np.sin(2 * np.pi * 440 * np.arange(RATE) / RATE)
    assert len(found) == RATE and np.abs(found - expected)[200:-200].max() < 0.01
    high = np.sin(2 * np.pi * 7_000 * np.arange(RATE) / RATE)  # which a rate of 8,000 cannot hold
    assert np.abs(sounds.resampled(high.astype(np.float32), RATE, 8_000))[200:-200].max() < 0.01


@without_torchcodec
def test_recordings_that_cannot_be_decoded_are_named_by_their_row(tmp_path):
    cells = cells_of(recordings(4))
    for row, content, message in (
        (1, b"fLaC" + bytes(40), "it is no WAV file, and what reads others is not installed: pip install torchcodec"),
        (2, cells[2]["bytes"][:30], "unpack requires"),
        (3, wav(np.zeros(0)), "the waveform is empty"),
    ):
        changed = [{**cell, "bytes": content} if index == row else cell for index, cell in enumerate(cells)]
        inputs = TASK.encode(stored(changed, [0, 1, 0, 1]), Wav2Vec2FeatureExtractor())
        with pytest.raises(ValueError, match=f"The sound in row {row} of the split cannot be used: .*{message}"):
            inputs.__getitems__([0, row])


@without_torchcodec
def test_a_folder_of_sound_files_has_its_folders_for_classes(tmp_path):
    for split in ("validation", "test"):
        for label, name in enumerate(NAMES):
            (tmp_path / split / name).mkdir(parents=True)
            for row in range(3):
                (tmp_path / split / name / f"{row}.wav").write_bytes(wav(tone(label, row)))
    data = TASK.load(str(tmp_path))
    assert {split: len(one) for split, one in data.items()} == {"validation": 6, "test": 6}
    assert data["test"].features["label"].names == sorted(NAMES)
    found = TASK.encode(data["test"], Wav2Vec2FeatureExtractor(do_normalize=False))
    for row in range(6):
        stored = recordings_of(tmp_path / "test" / data["test"].features["label"].names[found[row]["labels"]], row % 3)
        assert np.abs(found[row]["input_values"] - stored).max() < 1e-6
    with pytest.raises(ValueError, match="cannot be streamed: .*install 'torchcodec'.* Or load the data without str"):
        load_streams(TASK, str(tmp_path))
    (tmp_path / "test" / "metadata.csv").write_text("file_name,label\nlow/0.wav,low\n")
    with pytest.raises(ValueError, match="with a file of metadata, please install torchcodec"):
        TASK.load(str(tmp_path))


def recordings_of(folder, row):
    return sounds.waveform({"bytes": (folder / f"{row}.wav").read_bytes(), "path": None}, RATE)


def test_streamed_recordings_are_those_that_are_loaded(tmp_path):
    folder = parquet(tmp_path, validation=4, test=4)
    extractor = Wav2Vec2FeatureExtractor()
    loaded = TASK.encode(TASK.load(folder)["test"], extractor)
    streamed = list(EncodedStream(load_streams(TASK, folder)["test"], TASK.sample_encoder(extractor)))
    for row, one in enumerate(streamed):
        assert one["labels"] == loaded[row]["labels"]
        assert np.abs(one["input_values"] - loaded[row]["input_values"]).max() < 1e-5


def test_training_cuts_long_sounds_anywhere_and_measuring_does_not():
    data, extractor = recordings(8), Wav2Vec2FeatureExtractor(do_normalize=False)
    whole, cut = TASK.encode(data, extractor), TASK.encode(data, extractor, 1_200)
    torch.manual_seed(0)
    starts = set()
    for _ in range(5):
        for row in range(8):
            part, all_of_it = cut[row]["input_values"], whole[row]["input_values"]
            assert len(part) == min(1_200, len(all_of_it))
            places = [
                at
                for at in range(len(all_of_it) - len(part) + 1)
                if np.array_equal(all_of_it[at : at + len(part)], part)
            ]
            assert places
            starts.add(places[0])
    assert len(starts) > 10


# ---- Models ---------------------------------------------------------------------------------------------------------


CONVOLUTIONS = {
    "conv_dim": (8, 8), "conv_stride": (4, 4), "conv_kernel": (8, 8), "num_conv_pos_embeddings": 16,
    "num_conv_pos_embedding_groups": 2, "classifier_proj_size": 8, "mask_time_prob": 0.0,
}  # fmt: skip


def wav2vec2():
    return Wav2Vec2Config(**SIZES, **CONVOLUTIONS), Wav2Vec2FeatureExtractor()


def masked():
    config = Wav2Vec2Config(**SIZES, **CONVOLUTIONS, feat_extract_norm="layer", do_stable_layer_norm=True)
    return config, Wav2Vec2FeatureExtractor(return_attention_mask=True)


def hubert():
    return HubertConfig(**SIZES, **CONVOLUTIONS), Wav2Vec2FeatureExtractor()


def ast():
    config = ASTConfig(
        **SIZES, initializer_range=0.3, max_length=32, num_mel_bins=16, patch_size=8, frequency_stride=8, time_stride=8
    )
    return config, ASTFeatureExtractor(max_length=32, num_mel_bins=16)


def whisper():
    names = ("encoder_layers", "decoder_layers", "encoder_attention_heads", "decoder_attention_heads")
    sizes = dict.fromkeys(names, 1) | {"d_model": 8, "encoder_ffn_dim": 8, "decoder_ffn_dim": 8, "vocab_size": 20}
    tokens = dict.fromkeys(("pad_token_id", "bos_token_id", "eos_token_id", "decoder_start_token_id"), 0)
    config = WhisperConfig(**sizes, **tokens, num_mel_bins=8, max_source_positions=50, init_std=0.3)
    return config, WhisperFeatureExtractor(feature_size=8, chunk_length=1)


MODELS = {"wav2vec2": wav2vec2, "masked": masked, "hubert": hubert, "ast": ast, "whisper": whisper}


def saved(folder, kind):
    """A model that answers as its input has it, and far too surely."""
    config, extractor = MODELS[kind]()
    config.update({"id2label": dict(enumerate(NAMES)), "label2id": {name: index for index, name in enumerate(NAMES)}})
    torch.manual_seed(0)
    model = TASK.auto_class.from_config(config).eval()
    model.save_pretrained(folder)
    extractor.save_pretrained(folder)
    return model, extractor


def logits_of(model, extractor, waves):
    with torch.no_grad():
        inputs = [extractor(wave, sampling_rate=RATE, return_tensors="pt") for wave in waves]
        return np.vstack([model(**one).logits.numpy() for one in inputs])


@pytest.mark.parametrize("kind", MODELS)
def test_samples_are_measured_alone_where_padding_changes_what_a_model_answers(tmp_path, kind):
    model, extractor = saved(tmp_path, kind)
    inputs = TASK.encode(recordings(6), extractor)
    batch = TASK.collator(extractor)([inputs[row] for row in range(6)])
    waves = [sounds.waveform(cell, RATE) for cell in cells_of(recordings(6))]
    with torch.no_grad():
        together = model(**{name: value for name, value in batch.items() if name != "labels"}).logits.numpy()
    changed = bool(np.abs(together - logits_of(model, extractor, waves)).max() > 1e-5)
    assert TASK.alone(model, extractor) is changed is (kind in ("wav2vec2", "hubert"))


@pytest.mark.parametrize("kind", MODELS)
def test_the_head_is_found_without_data(tmp_path, kind):
    model, _ = saved(tmp_path, kind)
    (head,) = find_head(model, None).modules
    assert head is getattr(model.classifier, "dense", model.classifier)


def run(monkeypatch, name, *flags):
    script = str(ROOT / "scripts" / name)
    monkeypatch.setattr(sys, "argv", [script, *map(str, flags), "--use_cpu", "true", "--disable_tqdm", "true"])
    run_main(script)


@pytest.mark.parametrize(
    "kind", ["wav2vec2", *(pytest.param(kind, marks=pytest.mark.slow) for kind in ("ast", "whisper"))]
)
def test_a_classifier_of_sounds_is_calibrated_and_pipelines_give_its_probabilities(tmp_path, monkeypatch, kind):
    model, extractor = saved(tmp_path / "model", kind)
    waves = [sounds.waveform(cell, RATE) for cell in cells_of(recordings(40, 1))]
    raw = logits_of(model, extractor, waves)
    middle = float(np.median(raw[:, 0] - raw[:, 1]))
    times = 6 / float(np.abs(raw[:, 0] - raw[:, 1] - middle).mean())
    head = find_head(model, None).modules[0]
    head.weight.data.mul_(times)  # far too sure, of labels that are others every fourth time
    head.bias.data.mul_(times)[1] += middle * times
    model.save_pretrained(tmp_path / "model")
    (tmp_path / "data").mkdir()
    for seed, split in enumerate(("validation", "test")):
        cells = cells_of(recordings(40, seed))
        said = logits_of(model, extractor, [sounds.waveform(cell, RATE) for cell in cells]).argmax(axis=1)
        labels = [int(label) ^ (row % 4 == 0) for row, label in enumerate(said)]
        stored(cells, labels).to_parquet(str(tmp_path / "data" / f"{split}.parquet"))
    out = tmp_path / "out"
    run(monkeypatch, "calibrate.py", "--model_name_or_path", tmp_path / "model", "--dataset_name", tmp_path / "data",
        "--output_dir", out)  # fmt: skip
    temperature = json.loads((out / "all_results.json").read_text())["temperature"]
    assert temperature > 1.5 and (out / "preprocessor_config.json").is_file()
    logits = logits_of(model, extractor, waves)
    assert np.abs(load_file(out / "predictions.safetensors")["test_logits"] - logits).max() < 1e-3
    expected = softmax(logits.astype(np.float64) / temperature, axis=1)
    for make in (hf_focal.pipeline, transformers.pipeline):
        found = make("audio-classification", model=str(out), top_k=None)(waves)
        scores = [[{one["label"]: one["score"] for one in row}[name] for name in NAMES] for row in found]
        assert np.abs(np.array(scores) - expected).max() < 1e-4
    card = (out / "README.md").read_text()
    assert "pipeline_tag: audio-classification" in card and 'classifier("sound.wav")' in card
    assert type(from_pretrained(out)) is type(model)


def test_a_classifier_of_sounds_is_trained_calibrated_and_served(tmp_path, monkeypatch):
    saved(tmp_path / "model", "ast")
    (tmp_path / "data").mkdir()
    data = parquet(tmp_path / "data", train=48, validation=32, test=32)
    (command,) = (block.split() for block in blocks("bash") if "run_audio.py" in block)
    assert command[:3] == ["accelerate", "launch", "scripts/run_audio.py"]
    words = {"path/to/sounds": data, "path/to/wav2vec2": tmp_path / "model", "3e-5": "0.01"}
    flags = [*(words.get(one, one) for one in command[3:]), "--num_train_epochs", "6"]
    flags += ["--per_device_train_batch_size", "4", "--save_strategy", "no", "--eval_strategy", "no"]
    run(monkeypatch, "run_audio.py", *flags, "--output_dir", tmp_path / "out")
    results = json.loads((tmp_path / "out" / "all_results.json").read_text())
    assert results["test_after_accuracy"] > 0.9 and results["loss"] == "flsd-53"
    wave = sounds.resampled(tone(1, 7).astype(np.float32), 8_000, RATE)
    served = transformers.pipeline("audio-classification", model=str(tmp_path / "out"))(wave)
    assert served[0]["label"] == "high"
    with pytest.raises(ValueError, match="--max_length_seconds must be a number above 0, got 0"):
        run(monkeypatch, "run_audio.py", *flags, "--max_length_seconds", "0")


def test_a_checkpoint_becomes_a_classifier_of_our_sounds(tmp_path):
    before, _ = saved(tmp_path, "wav2vec2")
    model, extractor = create_audio_classifier(str(tmp_path), ["a", "b", "c"])
    assert model.config.id2label == {0: "a", 1: "b", 2: "c"} and model.classifier.out_features == 3
    assert torch.equal(model.projector.weight, before.projector.weight) and extractor.sampling_rate == RATE
    (tmp_path / "preprocessor_config.json").unlink()
    with pytest.raises(ValueError, match="holds a model but no feature extractor"):
        create_audio_classifier(str(tmp_path), ["a", "b"])


@pytest.mark.slow
def test_a_classifier_of_sounds_is_trained_on_a_stream(tmp_path, monkeypatch):
    saved(tmp_path / "model", "wav2vec2")
    (tmp_path / "data").mkdir()
    flags = ["--dataset_name", parquet(tmp_path / "data", train=8, validation=8, test=8), "--save_strategy", "no"]
    flags += ["--model_name_or_path", tmp_path / "model", "--streaming", "true", "--max_steps", "2"]
    run(monkeypatch, "run_audio.py", *flags, "--max_length_seconds", "0.1", "--output_dir", tmp_path / "out")
    assert "sounds of 16,000 samples a second" in (tmp_path / "out" / "README.md").read_text()


@pytest.mark.slow
def test_two_processes_measure_the_same_sounds(tmp_path):
    saved(tmp_path / "model", "wav2vec2")
    (tmp_path / "data").mkdir()
    data = parquet(tmp_path / "data", validation=20, test=20)
    found = []
    for processes in (1, 2):
        out = tmp_path / str(processes)
        flags = ["--model_name_or_path", str(tmp_path / "model"), "--dataset_name", data, "--output_dir", str(out)]
        launch(str(ROOT / "scripts" / "calibrate.py"), *flags, "--use_cpu", processes=processes)
        found.append(load_file(out / "predictions.safetensors")["test_logits"])
    assert np.abs(np.sort(found[0], axis=0) - np.sort(found[1], axis=0)).max() < 1e-6
