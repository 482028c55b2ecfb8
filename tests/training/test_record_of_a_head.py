# Copyright 2026 The hf_focal authors. Licensed under the Apache License, Version 2.0.
"""A record belongs to the head that it was fitted to, whatever is made of a calibrated checkpoint."""

import json

import numpy as np
import peft
import pytest
import torch
from peft import AdaLoraConfig, LoraConfig, PeftModel, get_peft_model
from small_models import NUM_LABELS, arguments, bert, build, samples
from transformers import (
    AutoModelForImageClassification,
    AutoModelForSequenceClassification,
    BertTokenizerFast,
    Trainer,
    TrainingArguments,
    ViTImageProcessorPil,
)

from hf_focal import (
    CalibrationTrainer,
    apply_temperature,
    create_image_classifier,
    create_text_classifier,
    fold_temperature,
    from_pretrained,
    pipeline,
    unfold_temperature,
)
from hf_focal.models.record import calibration_record


pytestmark = pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing` is deprecated", "ignore:.*fitted on")
Auto = AutoModelForSequenceClassification
T = 10.0


def logits_of(model):
    tokens = torch.randint(3, 40, (4, 6), generator=torch.Generator().manual_seed(2))
    with torch.no_grad():
        return model.eval()(input_ids=tokens, attention_mask=torch.ones_like(tokens)).logits.double().numpy()


def labelled(model, count=100):
    """Data of which the model is right on three of four, so that they determine a temperature."""
    with torch.no_grad():
        for module in model.modules():
            if getattr(module, "out_features", None) == NUM_LABELS and isinstance(module, torch.nn.Linear):
                module.weight.mul_(30)
        rows = samples("bert", count)
        found = model.eval()(input_ids=torch.stack([row["input_ids"] for row in rows])).logits.argmax(-1).tolist()
    return [
        {**row, "labels": (best + (i % 4 == 0)) % NUM_LABELS}
        for i, (row, best) in enumerate(zip(rows, found, strict=True))
    ]


def trained_on(model, folder, **kwargs):
    """By a stock Trainer, and saved by it."""
    args = arguments(folder, cls=TrainingArguments, report_to="none", **{"max_steps": 2, **kwargs})
    trainer = Trainer(model=model, args=args, train_dataset=samples("bert", 16))
    trainer.train()
    trainer.save_model()
    return trainer.model


def forgotten(caplog):
    return [one.getMessage() for one in caplog.records if "is forgotten" in one.getMessage()]


@pytest.fixture(params=[True, False], ids=["folded", "unfolded"])
def folder(request, tmp_path):
    """A checkpoint of five classes with a temperature."""
    model = fold_temperature(build("bert"), T)
    if not request.param:
        unfold_temperature(model)
    assert calibration_record(model)["folded"] is request.param
    model.save_pretrained(tmp_path / "calibrated")
    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *map(str, range(35))]
    BertTokenizerFast(vocab={word: index for index, word in enumerate(words)}).save_pretrained(tmp_path / "calibrated")
    return tmp_path / "calibrated"


only_folded = pytest.mark.parametrize("folder", [True], indirect=True)
only_unfolded = pytest.mark.parametrize("folder", [False], indirect=True)


def record_in(folder):
    return json.loads((folder / "config.json").read_text()).get("calibration")


# ---- Trained on by others -------------------------------------------------------------------------------------------


@only_folded
@pytest.mark.parametrize("rate", [3e-3, 1e-7])
def test_a_folded_checkpoint_that_a_stock_trainer_trained_on_is_not_called_calibrated(folder, tmp_path, caplog, rate):
    model = trained_on(Auto.from_pretrained(folder), tmp_path / "later", learning_rate=rate)
    assert record_in(tmp_path / "later")["temperature"] == T
    found = from_pretrained(tmp_path / "later")
    assert getattr(found.config, "calibration", None) is None
    assert len(forgotten(caplog)) == 1 and "calibrate it again" in caplog.text
    assert "never calibrated" not in caplog.text
    assert np.array_equal(logits_of(found), logits_of(model))
    found.save_pretrained(tmp_path / "again")
    assert record_in(tmp_path / "again") is None


@only_unfolded
def test_an_unfolded_temperature_of_another_head_is_refused_wherever_it_would_be_applied(folder, tmp_path):
    trained_on(Auto.from_pretrained(folder), tmp_path / "later")
    model = Auto.from_pretrained(tmp_path / "later")
    trainer = CalibrationTrainer(model=model, args=arguments(tmp_path / "out"), eval_dataset=labelled(model))
    for refused in (
        lambda: from_pretrained(tmp_path / "later"),
        lambda: pipeline("text-classification", model=str(tmp_path / "later"), tokenizer=str(folder)),
        lambda: apply_temperature(model),
        lambda: fold_temperature(model, 2.0),
        trainer.evaluate,
        trainer.save_model,
        trainer.create_model_card,
    ):
        with pytest.raises(ValueError, match="another head, so its temperature 10 is not applied.*del model.config"):
            refused()
    assert not (tmp_path / "out" / "config.json").exists()
    before = logits_of(model)
    fit = trainer.calibrate(guard=False, criterion="nll")  # the way out
    assert model.config.calibration["temperature"] == fit.temperature != T
    assert np.allclose(logits_of(model), before / fit.temperature, rtol=1e-5, atol=1e-6)


@only_folded
def test_after_further_training_in_memory_nothing_stale_is_written(folder, tmp_path, caplog):
    model = from_pretrained(folder)
    stock = Trainer(
        model=model, args=arguments(tmp_path, cls=TrainingArguments, report_to="none", max_steps=2),
        train_dataset=samples("bert", 16),
    )  # fmt: skip
    stock.train()
    with pytest.raises(ValueError, match="folded into another head.*nothing to undo.*del model.config.calibration"):
        unfold_temperature(model)
    trainer = CalibrationTrainer(model=model, args=arguments(tmp_path / "out"))
    assert len(forgotten(caplog)) == 1
    trainer.save_model()
    trainer.create_model_card()
    assert record_in(tmp_path / "out") is None
    assert "No temperature has been fitted" in (tmp_path / "out" / "README.md").read_text()


def test_weights_loaded_after_calibrating_are_not_called_calibrated(tmp_path, caplog):
    model = build("bert")
    trainer = CalibrationTrainer(model=model, args=arguments(tmp_path), eval_dataset=labelled(model))
    before = {name: value.clone() for name, value in model.state_dict().items()}
    trainer.calibrate(criterion="nll", guard=False)
    model.load_state_dict(before)
    trainer.save_model()
    assert record_in(tmp_path) is None and len(forgotten(caplog)) == 1


# ---- The base of another task ---------------------------------------------------------------------------------------


class Watched(CalibrationTrainer):
    """Keeps the head that training began with."""

    def training_step(self, model, *args, **kwargs):
        self.began = getattr(self, "began", None) or [self.model.classifier.weight.detach().clone()]
        return super().training_step(model, *args, **kwargs)


def trained_by_us(tmp_path, num_labels=NUM_LABELS, **kwargs):
    data = [{**row, "labels": row["labels"] % num_labels} for row in samples("bert", 16)]
    trainer = Watched(args=arguments(tmp_path / "run", max_steps=1), train_dataset=data, **kwargs)
    trainer.train()
    assert getattr(trainer.model.config, "calibration", None) is None
    trainer.save_model()
    assert record_in(tmp_path / "run") is None
    return trainer.began[0]


@pytest.mark.parametrize("num_labels", [3, NUM_LABELS])
def test_training_of_another_head_begins_with_it_as_it_is(folder, tmp_path, caplog, num_labels):
    if num_labels == NUM_LABELS:
        model = Auto.from_pretrained(folder)
        torch.nn.init.normal_(model.classifier.weight)
    else:
        model = Auto.from_pretrained(folder, num_labels=num_labels, ignore_mismatched_sizes=True)
    made = model.classifier.weight.detach().clone()
    assert torch.equal(trained_by_us(tmp_path, num_labels, model=model), made)
    assert len(forgotten(caplog)) == 1


def test_training_of_its_own_head_begins_with_the_logits_before_scaling(folder, tmp_path, caplog):
    stored = Auto.from_pretrained(folder)
    own = stored.classifier.weight * (T if stored.config.calibration["folded"] else 1.0)
    assert torch.allclose(trained_by_us(tmp_path, model=stored), own.detach(), rtol=1e-6)
    assert not forgotten(caplog) and "undone and cleared" in caplog.text


def test_so_it_does_with_every_model_that_model_init_gives(folder, tmp_path, caplog):
    stored = Auto.from_pretrained(folder)
    own = stored.classifier.weight.detach() * (T if stored.config.calibration["folded"] else 1.0)
    data = samples("bert", 16)
    args = arguments(tmp_path / "run", max_steps=1)
    trainer = Watched(model_init=lambda: Auto.from_pretrained(folder), args=args, train_dataset=data)
    for _ in range(2):
        trainer.began = None
        trainer.train()
        assert torch.allclose(trainer.began[0], own, rtol=1e-6)
        assert getattr(trainer.model.config, "calibration", None) is None

    def other():
        model = Auto.from_pretrained(folder)
        torch.nn.init.constant_(model.classifier.weight, 0.5)
        return model

    assert (trained_by_us(tmp_path, model_init=other) == 0.5).all()


@pytest.mark.parametrize("fingerprinted", [True, False])
@pytest.mark.parametrize("how", [{"from_scratch": True}, {}])
def test_a_classifier_made_of_a_calibrated_one(folder, tmp_path, caplog, how, fingerprinted):
    if not fingerprinted:  # written before there were any
        config = json.loads((folder / "config.json").read_text())
        del config["calibration"]["head"]
        (folder / "config.json").write_text(json.dumps(config))
    model, _ = create_text_classifier(str(folder), [*"xyz"], **how)
    assert getattr(model.config, "calibration", None) is None and len(forgotten(caplog)) == 1
    same, _ = create_text_classifier(str(folder), [*"abcde"])
    assert same.config.calibration["temperature"] == T and len(forgotten(caplog)) == 1


def test_an_image_classifier_made_of_a_calibrated_one(tmp_path, caplog):
    fold_temperature(build("vit"), T).save_pretrained(tmp_path)
    ViTImageProcessorPil(size={"height": 16, "width": 16}).save_pretrained(tmp_path)
    model, _ = create_image_classifier(str(tmp_path), [*"xyz"])
    assert getattr(model.config, "calibration", None) is None and len(forgotten(caplog)) == 1
    scratch, _ = create_image_classifier(str(tmp_path), [*"abcde"], from_scratch=True)
    assert getattr(scratch.config, "calibration", None) is None and len(forgotten(caplog)) == 2
    stock = AutoModelForImageClassification.from_pretrained(tmp_path, num_labels=3, ignore_mismatched_sizes=True)
    assert calibration_record(stock) is None and len(forgotten(caplog)) == 3


def test_a_record_without_a_fingerprint_is_taken_for_that_of_the_head():
    model = build("bert")
    model.config.calibration = {"temperature": 2.0, "folded": False}
    assert calibration_record(model) == {"temperature": 2.0, "folded": False}


@only_folded
@pytest.mark.parametrize("argument", [{"num_labels": 3}, {"id2label": {0: "a", 1: "b"}}])
def test_a_calibrated_classifier_is_not_loaded_with_other_classes(folder, argument):
    with pytest.raises(ValueError, match="with the classes that it has: leave .* unset.*create_text_classifier"):
        from_pretrained(folder, ignore_mismatched_sizes=True, **argument)


# ---- Adapters -------------------------------------------------------------------------------------------------------


@pytest.fixture
def adapter(request, tmp_path):
    """A calibrated adapter, and the model that it is in."""
    base = bert()
    data = labelled(base)
    base.save_pretrained(tmp_path / "base")
    base = Auto.from_pretrained(tmp_path / "base")
    fold, kept = getattr(request, "param", (True, "SEQ_CLS"))
    settings = LoraConfig(task_type=kept, r=2, target_modules=["query", "value"], init_lora_weights=False)
    model = get_peft_model(base, settings)
    trainer = CalibrationTrainer(model=model, args=arguments(tmp_path / "lora"), eval_dataset=data)
    trainer.calibrate(criterion="nll", guard=False, fold=fold)
    trainer.save_model()
    return tmp_path / "lora", model


ADAPTERS = {"folded": (True, "SEQ_CLS"), "unfolded": (False, "SEQ_CLS"), "without a head": (False, None)}


@pytest.mark.parametrize("adapter", ADAPTERS.values(), ids=ADAPTERS, indirect=True)
def test_an_adapter_that_stock_code_trained_on_is_told(adapter, tmp_path, caplog):
    folder, model = adapter
    record = json.loads((folder / "calibration.json").read_text())
    assert record["head"]["kind"] == "ForSequenceClassification"
    assert from_pretrained(folder).config.calibration["head"] == record["head"]
    base = Auto.from_pretrained(tmp_path / "base")
    trained_on(PeftModel.from_pretrained(base, folder, is_trainable=True), folder)
    if record["folded"]:
        assert getattr(from_pretrained(folder).config, "calibration", None) is None and len(forgotten(caplog)) == 1
    else:
        with pytest.raises(ValueError, match=r"another head.*calibration\.json"):
            from_pretrained(folder)


@pytest.mark.parametrize("adapter", ADAPTERS.values(), ids=ADAPTERS, indirect=True)
def test_a_merged_adapter_keeps_its_record(adapter, tmp_path):
    _, model = adapter
    merged = model.merge_and_unload()
    merged.save_pretrained(tmp_path / "merged")
    assert calibration_record(Auto.from_pretrained(tmp_path / "merged")) == model.config.calibration


def test_an_adapter_of_the_head_itself_is_merged_with_its_record(tmp_path):
    settings = LoraConfig(r=2, target_modules=["classifier"], init_lora_weights=False)
    model = get_peft_model(bert(), settings)
    trainer = CalibrationTrainer(model=model, args=arguments(tmp_path), eval_dataset=labelled(model))
    trainer.calibrate(criterion="nll", guard=False, fold=False)
    assert calibration_record(model)["head"] == model.config.calibration["head"]
    assert calibration_record(model.merge_and_unload())["folded"] is False


def test_an_adapter_on_a_calibrated_base_has_the_record_as_long_as_it_has_the_head(folder):
    settings = LoraConfig(task_type="SEQ_CLS", r=2, target_modules=["query"])
    model = get_peft_model(Auto.from_pretrained(folder), settings)
    assert calibration_record(model)["temperature"] == T
    with torch.no_grad():
        model.base_model.model.classifier.modules_to_save["default"].weight.add_(1e-4)
    if model.config.calibration["folded"]:
        assert calibration_record(model) is None
    else:
        with pytest.raises(ValueError, match="another head"):
            calibration_record(model)


def kinds():
    heads = {"task_type": "SEQ_CLS", "target_modules": ["query", "value"]}
    yield "lora", LoraConfig(**heads, r=2, init_lora_weights=False)
    yield "adalora", AdaLoraConfig(**heads, total_step=10, tinit=1, tfinal=2, init_lora_weights=False)
    yield "ia3", peft.IA3Config(**heads, feedforward_modules=[], init_ia3_weights=False)
    yield "loha", peft.LoHaConfig(**heads, r=2, init_weights=False)
    yield "lokr", peft.LoKrConfig(**heads, r=2, init_weights=False)
    yield "oft", peft.OFTConfig(**heads, r=0, oft_block_size=8, init_weights=False)
    yield "dora", LoraConfig(**heads, r=2, use_dora=True, init_lora_weights=False)
    yield "vera", peft.VeraConfig(**heads, r=2, init_weights=False)
    yield "prompt", peft.PromptTuningConfig(task_type="SEQ_CLS", num_virtual_tokens=2)


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(("kind", "settings"), kinds(), ids=[kind for kind, _ in kinds()])
def test_every_kind_of_adapter_loads_as_peft_loads_it_or_is_refused_with_the_way_out(kind, settings, tmp_path):
    bert().save_pretrained(tmp_path / "base")
    model = get_peft_model(Auto.from_pretrained(tmp_path / "base"), settings)
    with torch.no_grad():
        for number, parameter in enumerate(model.parameters()):
            if parameter.requires_grad:
                generator = torch.Generator().manual_seed(number)
                parameter.add_(0.2 * torch.randn(parameter.shape, generator=generator))
    model.save_pretrained(tmp_path / "adapter")
    expected = logits_of(PeftModel.from_pretrained(Auto.from_pretrained(tmp_path / "base"), tmp_path / "adapter"))
    assert np.abs(expected - logits_of(Auto.from_pretrained(tmp_path / "base"))).max() > 0.01
    if kind in ("vera", "prompt"):
        with pytest.raises(ValueError, match=r"which transformers cannot add.*PEFT.*merge_and_unload\(\)"):
            from_pretrained(tmp_path / "adapter")
    elif kind == "dora":  # once transformers finds its magnitudes, it loads
        with pytest.raises(ValueError, match=r"kind DoRA.*would be random.*merge_and_unload\(\)"):
            from_pretrained(tmp_path / "adapter")
        whole = PeftModel.from_pretrained(Auto.from_pretrained(tmp_path / "base"), tmp_path / "adapter")
        whole.merge_and_unload().save_pretrained(tmp_path / "whole")  # the way out
        assert np.abs(logits_of(from_pretrained(tmp_path / "whole")) - expected).max() < 1e-5
    else:
        assert np.abs(logits_of(from_pretrained(tmp_path / "adapter")) - expected).max() < 1e-6


@pytest.mark.filterwarnings("ignore")
def test_an_adalora_whose_ranks_were_pruned_loads(tmp_path):
    bert().save_pretrained(tmp_path / "base")
    settings = AdaLoraConfig(
        task_type="SEQ_CLS", target_modules=["query", "value"], init_r=6, target_r=2, total_step=8, tinit=1, tfinal=2,
        init_lora_weights=False,
    )  # fmt: skip
    model = get_peft_model(Auto.from_pretrained(tmp_path / "base"), settings)
    optimizer = torch.optim.Adam([one for one in model.parameters() if one.requires_grad], lr=0.05)
    rows = samples("bert", 8)
    batch = {key: torch.stack([torch.as_tensor(row[key]) for row in rows]) for key in ("input_ids", "labels")}
    for step in range(8):
        model(**batch).loss.backward()
        optimizer.step()
        model.base_model.update_and_allocate(step)
        optimizer.zero_grad()
    model.save_pretrained(tmp_path / "adapter")
    pattern = json.loads((tmp_path / "adapter" / "adapter_config.json").read_text())["rank_pattern"]
    assert sum(map(sum, pattern.values())) == 4 and len(pattern) == 2  # of 12
    expected = logits_of(PeftModel.from_pretrained(Auto.from_pretrained(tmp_path / "base"), tmp_path / "adapter"))
    assert np.abs(expected - logits_of(Auto.from_pretrained(tmp_path / "base"))).max() > 0.01
    assert np.abs(logits_of(from_pretrained(tmp_path / "adapter")) - expected).max() < 1e-6
    config = json.loads((tmp_path / "adapter" / "adapter_config.json").read_text())
    config["rank_pattern"] = {name: [True] * 6 for name in pattern}
    (tmp_path / "adapter" / "adapter_config.json").write_text(json.dumps(config))
    with pytest.raises(ValueError, match="adapter_config.json of .* is refused: 'rank_pattern' says"):
        from_pretrained(tmp_path / "adapter")
