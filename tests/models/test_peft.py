# Copyright 2026 The hf_focal authors. Licensed under the Apache License, Version 2.0.
"""Models with an adapter of PEFT: trained, calibrated, kept or merged, and loaded again."""

import json

import numpy as np
import peft
import pytest
import torch
from packaging.version import Version
from peft import AutoPeftModelForSequenceClassification, LoraConfig, PeftModel, get_peft_model
from scipy.special import softmax
from small_models import without_head
from transformers import (
    AutoModelForSequenceClassification,
    BertConfig,
    BertForSequenceClassification,
    BertTokenizerFast,
    RobertaConfig,
    RobertaForSequenceClassification,
)
from transformers.integrations.peft import MIN_PEFT_VERSION

from hf_focal import (
    CalibrationTrainer,
    CalibrationTrainingArguments,
    adjust_prior,
    apply_temperature,
    create_image_classifier,
    fold_temperature,
    from_pretrained,
    pipeline,
    push_to_hub,
    unfold_temperature,
)


# PEFT reads a property of transformers by its earlier name.
pytestmark = pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing` is deprecated")
# Where transformers itself adds an adapter to a model, or loads one into it.
through_transformers = pytest.mark.skipif(
    Version(peft.__version__) < Version(MIN_PEFT_VERSION),
    reason=f"transformers asks for peft of at least {MIN_PEFT_VERSION}, and {peft.__version__} is installed",
)

NUM_LABELS = 5
CLASSES = {"bert": (BertForSequenceClassification, BertConfig)}
CLASSES["roberta"] = (RobertaForSequenceClassification, RobertaConfig)


@pytest.fixture(params=CLASSES)
def base(request, tmp_path):
    """A folder with a checkpoint that adapters are trained on."""
    torch.manual_seed(0)
    cls, config = CLASSES[request.param]
    small = {"hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 32}
    model = cls(config(vocab_size=50, num_labels=NUM_LABELS, initializer_range=0.2, **small))
    model.save_pretrained(tmp_path / "base")
    return tmp_path / "base"


def with_lora(folder, **kwargs):
    torch.manual_seed(1)
    model = AutoModelForSequenceClassification.from_pretrained(folder)
    config = LoraConfig(**{"task_type": "SEQ_CLS", "r": 2, "init_lora_weights": False, **kwargs})
    return get_peft_model(model, config).eval()


def inputs():
    tokens = torch.randint(3, 50, (6, 7), generator=torch.Generator().manual_seed(2))
    return {"input_ids": tokens, "attention_mask": torch.ones_like(tokens)}


def logits_of(model):
    with torch.no_grad():
        return model.eval()(**inputs()).logits.double().numpy()


def probabilities_of(model):
    return softmax(logits_of(model), axis=-1)


def test_an_adapter_carries_its_folded_head(base, tmp_path):
    model = with_lora(base)
    logits = logits_of(model)
    with model.disable_adapter():
        of_base = logits_of(model)
    assert fold_temperature(model, 2.5) is model
    with model.disable_adapter():
        assert np.array_equal(logits_of(model), of_base)  # its head is not the adapter's
    model.save_pretrained(tmp_path / "adapter")
    again = AutoPeftModelForSequenceClassification.from_pretrained(tmp_path / "adapter", num_labels=NUM_LABELS)
    expected = softmax(logits / 2.5, axis=-1)
    assert np.abs(expected - softmax(logits, axis=-1)).max() > 0.01
    assert np.abs(probabilities_of(again) - expected).max() < 1e-6
    stock = AutoModelForSequenceClassification.from_pretrained(tmp_path / "adapter", num_labels=NUM_LABELS)
    assert np.abs(probabilities_of(stock) - expected).max() < 1e-6
    unfold_temperature(model)
    assert np.abs(logits_of(model) - logits).max() < 1e-5


@pytest.mark.parametrize("fold", [True, False])
def test_an_adapter_saved_by_hand_has_its_record_beside_it(base, tmp_path, fold):
    model = with_lora(base)
    before = logits_of(model)
    adjust_prior(model, [1] * before.shape[-1], range(1, before.shape[-1] + 1), fold=fold)
    model.save_pretrained(tmp_path / "adapter")
    loaded = from_pretrained(tmp_path / "adapter")
    assert loaded.config.calibration["method"] == "prior" and loaded.config.calibration["folded"] is fold
    odds = probabilities_of(loaded) / np.exp(before)
    expected = odds[:, :1] * range(1, before.shape[-1] + 1)
    np.testing.assert_allclose(odds, expected, rtol=1e-4)
    if fold:
        assert np.abs(logits_of(unfold_temperature(loaded)) - before).max() < 1e-5


@pytest.mark.parametrize("fold_first", [True, False])
def test_a_merged_model_is_an_ordinary_folded_one(base, tmp_path, fold_first):
    model = with_lora(base)
    expected = softmax(logits_of(model) / 2.5, axis=-1)
    if fold_first:
        fold_temperature(model, 2.5)
    model = model.merge_and_unload()
    if not fold_first:
        fold_temperature(model, 2.5)
    model.save_pretrained(tmp_path / "merged")
    again = AutoModelForSequenceClassification.from_pretrained(tmp_path / "merged")
    assert np.abs(probabilities_of(again) - expected).max() < 1e-5
    record = {"method": "temperature", "temperature": 2.5, "folded": True}
    assert without_head(again.config.calibration) == record
    with pytest.raises(ValueError, match="calibrated already"):
        fold_temperature(again, 2.5)


def test_of_two_adapters_the_active_one_is_folded(base):
    model = with_lora(base)
    model.add_adapter("second", LoraConfig(task_type="SEQ_CLS", r=2, init_lora_weights=False))
    model.set_adapter("second")
    second = logits_of(model)
    model.set_adapter("default")
    first = logits_of(model)
    fold_temperature(model, 2.5)
    assert np.abs(logits_of(model) - first / 2.5).max() < 1e-5
    model.set_adapter("second")
    assert np.array_equal(logits_of(model), second)


@pytest.mark.parametrize("on_head", [False, True])
def test_an_adapter_without_a_head_of_its_own_is_refused_until_it_is_merged(base, on_head):
    with_head = ["query", "out_proj" if "roberta" in (base / "config.json").read_text() else "classifier"]
    model = with_lora(base, task_type=None, target_modules=with_head if on_head else ["query"])
    logits = logits_of(model)
    with pytest.raises(ValueError, match=r"modules_to_save.*merge_and_unload\(\).*fold=False"):
        fold_temperature(model, 2.5)
    assert np.array_equal(logits_of(model), logits)
    merged = fold_temperature(model.merge_and_unload(), 2.5)
    assert np.abs(logits_of(merged) - logits / 2.5).max() < 1e-5


def test_of_a_timm_network_too_only_the_head_of_the_adapter_is_folded():
    images = {"pixel_values": torch.randn(2, 3, 32, 32, generator=torch.Generator().manual_seed(0))}
    for kept in (None, ["head"]):
        model, _ = create_image_classifier("test_vit", [*"abcde"], from_scratch=True, image_size=32)
        model = get_peft_model(model, LoraConfig(r=2, target_modules=["qkv"], modules_to_save=kept)).eval()
        with torch.no_grad():
            logits = model(**images).logits
            if kept is None:
                with pytest.raises(ValueError, match="modules_to_save"):
                    fold_temperature(model, 2.5)
            else:
                fold_temperature(model, 2.5)
            scale = 1 if kept is None else 2.5
            assert (model(**images).logits * scale - logits).abs().max() <= 1e-6


@through_transformers
def test_an_adapter_that_transformers_added_carries_its_folded_head(base, tmp_path):
    torch.manual_seed(1)
    model = AutoModelForSequenceClassification.from_pretrained(base)
    model.add_adapter(LoraConfig(r=2, init_lora_weights=False, modules_to_save=["classifier"]))
    logits = logits_of(model)
    fold_temperature(model, 2.5).save_pretrained(tmp_path / "adapter")
    again = AutoModelForSequenceClassification.from_pretrained(base)
    again.load_adapter(str(tmp_path / "adapter"))
    assert np.abs(logits_of(again) - logits / 2.5).max() < 1e-5


def samples(count, seed):
    """The tokens tell the label, so that there is something to learn; some labels are wrong."""
    generator = torch.Generator().manual_seed(seed)
    tokens = torch.randint(3, 50, (count, 7), generator=generator)
    labels = torch.randint(0, NUM_LABELS, (count,), generator=generator)
    tokens[:, 2:] = 10 + labels[:, None]
    wrong = torch.rand(count, generator=generator) < 0.2
    labels[wrong] = torch.randint(0, NUM_LABELS, (int(wrong.sum()),), generator=generator)
    return [{"input_ids": row, "labels": int(label)} for row, label in zip(tokens, labels, strict=True)]


def trainer_for(base, folder, **kwargs):
    defaults = {
        "loss": "focal", "num_train_epochs": 2, "per_device_train_batch_size": 16, "learning_rate": 1e-2, "seed": 3,
        "save_strategy": "no", "logging_strategy": "no", "dataloader_pin_memory": False, "disable_tqdm": True,
        "use_cpu": True,
    }  # fmt: skip
    args = CalibrationTrainingArguments(str(folder), **{**defaults, **kwargs})
    model = with_lora(base, init_lora_weights=True)
    return CalibrationTrainer(model=model, args=args, train_dataset=samples(320, 0), eval_dataset=samples(240, 1))


@pytest.mark.parametrize("fold", [True, False])
def test_the_trainer_trains_calibrates_and_saves_an_adapter_with_its_record(base, tmp_path, fold):
    trainer = trainer_for(base, tmp_path / "out")
    trainer.train()
    before = trainer.evaluate()
    assert before["eval_accuracy"] > 0.5
    logits = logits_of(trainer.model)
    fit = trainer.calibrate(criterion="nll", fold=fold)
    assert abs(fit.temperature - 1) > 0.02
    after = trainer.evaluate()
    assert after["eval_nll"] == pytest.approx(fit.after["nll"], rel=1e-4)
    trainer.save_model()
    files = {path.name for path in (tmp_path / "out").iterdir()}
    assert {"adapter_config.json", "adapter_model.safetensors", "calibration.json"} <= files
    assert not files & {"config.json", "training_args.bin"}
    record = json.loads((tmp_path / "out" / "calibration.json").read_text())
    assert record.pop("labels") == [f"LABEL_{index}" for index in range(NUM_LABELS)]
    assert record == trainer.model.config.calibration
    assert record["folded"] is fold and record["temperature"] == fit.temperature

    base_model = AutoModelForSequenceClassification.from_pretrained(base)
    again = PeftModel.from_pretrained(base_model, tmp_path / "out")
    again.config.calibration = record
    expected = logits / fit.temperature if fold else logits
    assert np.abs(logits_of(again) - expected).max() < 1e-5
    if fold:
        with pytest.raises(ValueError, match="calibrated already"):
            fold_temperature(again, 2.0)
    else:
        fold_temperature(again, fit.temperature)
        assert np.abs(logits_of(again) - logits / fit.temperature).max() < 1e-5


def test_the_best_adapter_is_loaded_at_the_end_of_training(base, tmp_path):
    trainer = trainer_for(
        base, tmp_path, save_strategy="epoch", eval_strategy="epoch", load_best_model_at_end=True,
        metric_for_best_model="nll",
    )  # fmt: skip
    trainer.train()
    losses = [entry["eval_nll"] for entry in trainer.state.log_history if "eval_nll" in entry]
    assert len(losses) == 2
    assert trainer.evaluate()["eval_nll"] == pytest.approx(min(losses), rel=1e-5)


def test_a_record_does_not_outlive_the_calibration_it_describes(base, tmp_path):
    trainer = trainer_for(base, tmp_path / "out")
    trainer.train()
    trainer.calibrate(criterion="nll")
    trainer.save_model()
    assert (tmp_path / "out" / "calibration.json").is_file()
    trainer.train()
    trainer.save_model()
    assert not (tmp_path / "out" / "calibration.json").exists()
    assert getattr(trainer.model.config, "calibration", None) is None


# ---- Loaded by from_pretrained and pipeline -------------------------------------------------------------------------


@pytest.fixture(params=[True, False], ids=["folded", "unfolded"])
def adapter(request, tmp_path):
    """A folder with a calibrated adapter for a base model of two labels, and its logits before scaling."""
    torch.manual_seed(0)
    cls, config = CLASSES["bert"]
    small = {"hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 32}
    base = cls(config(vocab_size=50, num_labels=2, initializer_range=0.2, **small))
    base.config.calibration = {"temperature": 9.0, "folded": False}  # says nothing of what an adapter makes of it
    base.save_pretrained(tmp_path / "base")
    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *map(str, range(45))]
    BertTokenizerFast(vocab={word: index for index, word in enumerate(words)}).save_pretrained(tmp_path / "base")
    model = AutoModelForSequenceClassification.from_pretrained(
        tmp_path / "base", num_labels=NUM_LABELS, ignore_mismatched_sizes=True,
        id2label=dict(enumerate("abcde")), label2id={name: index for index, name in enumerate("abcde")},
    )  # fmt: skip
    torch.nn.init.normal_(model.classifier.weight)
    model = get_peft_model(model, LoraConfig(task_type="SEQ_CLS", r=2, init_lora_weights=False))
    args = CalibrationTrainingArguments(str(tmp_path / "adapter"), use_cpu=True, fold_temperature=request.param)
    trainer = CalibrationTrainer(model=model, args=args, eval_dataset=samples(240, 1))
    logits = logits_of(model)
    temperature = trainer.calibrate(criterion="nll").temperature
    assert abs(temperature - 1) > 0.1
    trainer.save_model()
    trainer.create_model_card()
    return tmp_path / "adapter", logits, temperature


def edit(path, **changes):
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))


@through_transformers
def test_an_adapter_is_loaded_with_its_head_labels_and_temperature_applied_once(adapter, tmp_path):
    folder, logits, temperature = adapter
    edit(folder / "calibration.json", tomorrow={"kept": [1]})
    model = from_pretrained(folder)
    assert not model.training and model.config.calibration["tomorrow"] == {"kept": [1]}
    assert [model.config.id2label[index] for index in range(NUM_LABELS)] == [*"abcde"]
    for again in (model, apply_temperature(model), from_pretrained(folder)):
        assert np.abs(logits_of(again) - logits / temperature).max() < 1e-5
    if model.config.calibration["folded"]:
        with pytest.raises(ValueError, match="calibrated already"):
            fold_temperature(model, 2.0)
    else:
        fold_temperature(model, temperature)
    model.save_pretrained(tmp_path / "again")
    stock = AutoModelForSequenceClassification.from_pretrained(
        tmp_path / "again", num_labels=NUM_LABELS, ignore_mismatched_sizes=True
    )
    assert np.abs(logits_of(stock) - logits / temperature).max() < 1e-5


def test_a_pipeline_of_an_adapter_takes_the_tokenizer_that_is_there(adapter):
    folder, logits, temperature = adapter
    text = "5 6 7"
    of_base = BertTokenizerFast.from_pretrained(folder.parent / "base")
    with torch.no_grad():
        expected = from_pretrained(folder)(**of_base(text, return_tensors="pt")).logits.softmax(-1)[0].tolist()
    for number in range(2):
        classify = pipeline(model=str(folder), top_k=None)
        assert classify.task == "text-classification"
        (rows,) = classify([text])
        found = {row["label"]: row["score"] for row in rows}
        assert [found[name] for name in "abcde"] == pytest.approx(expected, abs=1e-6), number
        of_base.save_pretrained(folder)  # now the adapter has one itself
        edit(folder.parent / "base" / "tokenizer_config.json", tokenizer_class="NoSuchTokenizer")


@pytest.mark.parametrize("adapter", [False], indirect=True)
@pytest.mark.parametrize(
    "temperature",
    [0, -1.5, float("nan"), float("inf"), "2.0", [2.0], {"value": 2}, 1e300, 10**400, True, None, 1e-300],
)
def test_a_temperature_of_an_adapter_that_cannot_be_is_refused_before_weights_are_read(adapter, temperature):
    folder, _, _ = adapter
    edit(folder / "calibration.json", temperature=temperature)
    for weights in ("base/model.safetensors", "adapter/adapter_model.safetensors"):
        (folder.parent / weights).write_bytes(b"not read")
    for load in (from_pretrained, lambda folder: pipeline(model=folder)):
        with pytest.raises(
            ValueError, match=r"calibration.json of .*adapter is refused: calibration\['temperature'\]"
        ):
            load(str(folder))


@pytest.mark.parametrize("adapter", [False], indirect=True)
def test_what_else_an_adapter_can_say_wrong_is_refused(adapter, caplog):
    folder, logits, _ = adapter
    path = folder / "calibration.json"
    good = json.loads(path.read_text())
    without = {key: value for key, value in good.items() if key != "temperature"}
    for text, message in (
        ("{", "calibration.json of .* is refused: Expecting"),
        ("null", "refused: calibration must be a dict"),
        (json.dumps([good]), "refused: calibration must be a dict"),
        (json.dumps(without), r"refused: calibration\['temperature'\].*got None"),
        (json.dumps({**good, "folded": "no"}), "refused: calibration must be a dict"),
        (json.dumps({**good, "method": "focal", "gamma": -1}), r"refused: calibration\['gamma'\]"),
        (json.dumps({**good, "method": "spline"}), "calibration.json of .* is refused: .*'spline'"),
        *((json.dumps({**good, "labels": labels}), "labels") for labels in ("abcde", ["a"], [1, 2], {"0": "a"})),
        (json.dumps({**good, "labels": [*"abc"]}), "size mismatch|lacks weights|mismatch"),
    ):
        path.write_text(text)
        with pytest.raises((ValueError, RuntimeError), match=message):
            from_pretrained(folder)
    path.write_text(json.dumps(good))
    for value in (None, 3, ""):
        settings = (folder / "adapter_config.json").read_text()
        edit(folder / "adapter_config.json", base_model_name_or_path=value)
        with pytest.raises(ValueError, match="adapter_config.json of .* is refused: 'base_model_name_or_path'"):
            from_pretrained(folder)
        (folder / "adapter_config.json").write_text(settings)
    settings = (folder / "adapter_config.json").read_text()
    (folder / "adapter_config.json").write_text("[]")
    with pytest.raises(ValueError, match="adapter_config.json of .* is refused: it must be a dict"):
        from_pretrained(folder)
    (folder / "adapter_config.json").write_text(settings)
    path.write_text(json.dumps({key: value for key, value in good.items() if key != "labels"}))
    edit(folder.parent / "base" / "config.json", id2label={index: name for index, name in enumerate("vwxyz")})
    assert from_pretrained(folder).config.id2label[0] == "v"  # an older file names none: those of the base model
    path.unlink()
    assert np.abs(logits_of(from_pretrained(folder)) - logits).max() < 1e-5  # not divided by the 9 of its base model
    assert "was never calibrated" in caplog.text
    (folder / "adapter_config.json").unlink()
    with pytest.raises(OSError, match="neither config.json nor adapter_config.json"):
        from_pretrained(folder)


class Bomb:
    def __reduce__(self):
        return (open, ("exploded", "w"))


@pytest.mark.parametrize("adapter", [False], indirect=True)
def test_no_code_of_an_adapter_is_run(adapter, tmp_path, monkeypatch):
    folder, _, _ = adapter
    monkeypatch.chdir(tmp_path)
    (folder / "adapter_model.safetensors").rename(tmp_path / "kept")
    torch.save({"bomb": Bomb()}, folder / "adapter_model.bin")
    with pytest.raises(OSError, match="adapter_model.safetensors"):  # transformers reads no pickle of a local folder
        from_pretrained(folder)
    (tmp_path / "kept").rename(folder / "adapter_model.safetensors")
    (folder.parent / "base" / "code.py").write_text("open('exploded', 'w')")
    edit(folder.parent / "base" / "config.json", model_type="unheard-of", auto_map={"AutoConfig": "code.Config"})
    with pytest.raises(ValueError, match="unheard-of|custom code|trust_remote_code"):
        from_pretrained(folder)
    with pytest.raises(ValueError, match="trust_remote_code"):
        from_pretrained(folder, trust_remote_code=True)
    assert not (tmp_path / "exploded").exists()


def test_an_adapter_without_the_head_that_its_base_lacks_is_refused(base, tmp_path):
    model = AutoModelForSequenceClassification.from_pretrained(base)
    model.base_model.save_pretrained(tmp_path / "headless")
    settings = {"task_type": "SEQ_CLS", "r": 2, "target_modules": ["query"]}
    for kept in (["classifier"], None):
        lora = get_peft_model(
            AutoModelForSequenceClassification.from_pretrained(base), LoraConfig(**settings, modules_to_save=kept)
        )
        if kept is None:
            for config in lora.peft_config.values():
                config.task_type, config.modules_to_save = None, None
            lora.base_model.model.classifier = AutoModelForSequenceClassification.from_pretrained(base).classifier
        lora.save_pretrained(tmp_path / "lora")
        edit(tmp_path / "lora" / "adapter_config.json", base_model_name_or_path=str(tmp_path / "headless"))
        options = {"task": "text-classification"}
        edit(tmp_path / "headless" / "config.json", num_labels=NUM_LABELS)
        if kept is None:
            with pytest.raises(ValueError, match="lacks weights of .*classifier"):
                from_pretrained(tmp_path / "lora", **options)
        else:
            assert np.abs(logits_of(from_pretrained(tmp_path / "lora", **options)) - logits_of(lora)).max() < 1e-5


@pytest.mark.parametrize("adapter", [False], indirect=True)
def test_the_card_of_an_adapter_says_how_it_is_used(adapter):
    folder, _, temperature = adapter
    card = (folder / "README.md").read_text()
    assert "library_name: peft" in card and "from hf_focal import pipeline" in card
    assert f"{temperature:.4g} of `calibration.json`" in card


@pytest.mark.parametrize("adapter", [True], indirect=True)
def test_an_adapter_for_a_folder_here_is_not_pushed(adapter):
    with pytest.raises(ValueError, match=r"a folder here.*merge_and_unload\(\)"):
        push_to_hub(adapter[0], "user/name")
