# Copyright 2026 The hf_focal authors. Licensed under the Apache License, Version 2.0.
"""
What the tests of the Hub run on the client's side: a process of its own, which imports everything once and then forks
for each job that comes as a line of JSON. `HF_ENDPOINT` must be right when it starts.
"""

import json
import os
import sys
import traceback

import huggingface_hub.utils._http as http
import torch
import transformers
from huggingface_hub import constants
from transformers import ViTConfig, ViTForImageClassification, ViTImageProcessor

import hf_focal.hub.load
import hf_focal.results.plots.reliability
import hf_focal.training.trainer


PIXELS = torch.linspace(-1, 1, 3 * 8 * 8 * 2).reshape(2, 3, 8, 8)


def tiny_model(seed=0):
    """A ViT of a thousand parameters, whose logits differ between classes."""
    torch.manual_seed(seed)
    sizes = {"hidden_size": 8, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 8}
    model = ViTForImageClassification(ViTConfig(**sizes, image_size=8, patch_size=4, num_labels=3))
    torch.nn.init.normal_(model.classifier.weight)
    return model.eval()


def save(folder, seed=0, temperature=2.0):
    """A folder with a folded model; returns its logits before scaling."""
    model = tiny_model(seed)
    raw = logits(model)
    hf_focal.fold_temperature(model, temperature)
    model.save_pretrained(folder)
    about = hf_focal.About("tiny", "image-classification", model.config.calibration)
    hf_focal.create_model_card(about, model_id=folder).save(f"{folder}/README.md")
    return raw


def logits(model):
    with torch.no_grad():
        return model(PIXELS).logits.double().tolist()


def samples(count, seed=0):
    """Labels drawn from what `tiny_model()` says at temperature 3."""
    generator = torch.Generator().manual_seed(seed)
    pixels = torch.randn(count, 3, 8, 8, generator=generator)
    with torch.no_grad():
        shares = (tiny_model()(pixels).logits / 3).softmax(-1)
    labels = torch.multinomial(shares, 1, generator=generator).flatten().tolist()
    return [{"pixel_values": row, "labels": label} for row, label in zip(pixels, labels, strict=True)]


def make_trainer(folder, model=None, **arguments):
    """A trainer of two epochs that saves after each."""
    defaults = {"num_train_epochs": 2, "per_device_train_batch_size": 8, "save_strategy": "epoch", "use_cpu": True}
    defaults |= {"disable_tqdm": True, "dataloader_pin_memory": False, "report_to": "none"}
    processor = ViTImageProcessor(size={"height": 8, "width": 8})
    return hf_focal.CalibrationTrainer(
        model=model or tiny_model(),
        args=hf_focal.CalibrationTrainingArguments(folder, **{**defaults, **arguments}),
        train_dataset=samples(16),
        eval_dataset=samples(210, seed=1),
        processing_class=processor,
    )


def work(job):
    os.environ["HF_TOKEN"] = job["token"]
    constants.HF_HUB_CACHE = job["cache"]
    os.chdir(job["folder"])
    for number, name in ((1, "stdout"), (2, "stderr")):
        os.dup2(os.open(job[name], os.O_WRONLY | os.O_CREAT | os.O_TRUNC), number)
    try:
        result = {}
        exec(job["code"], {**globals(), "result": result})
        print("\n" + json.dumps(result), flush=True)
        return 0
    except BaseException:
        traceback.print_exc()
        return 1


if __name__ == "__main__":
    torch.set_num_threads(1)
    http.time.sleep = lambda seconds: None  # retries need not wait
    transformers.utils.logging.disable_progress_bar()
    for line in sys.stdin:
        child = os.fork()
        if child == 0:
            code = work(json.loads(line))
            sys.stdout.flush()
            sys.stderr.flush()
            os._exit(code)
        print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), flush=True)
