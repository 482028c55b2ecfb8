# Copyright 2026 The hf_focal authors. Licensed under the Apache License, Version 2.0.
"""Calibrated models through the Hub: the real client in processes of its own, against a server on loopback."""

import json
import os
import subprocess
import sys

import pytest
from conftest import ROOT
from hub_server import HubServer


TOKENS = {"hf_ann_secret": "ann", "hf_bob_secret": "bob"}
ANN, BOB = TOKENS

PREAMBLE = """
import json, sys, torch, transformers, huggingface_hub.utils._http as http
transformers.utils.logging.disable_progress_bar()
http.time.sleep = lambda seconds: None  # retries do not wait
pixels = torch.linspace(-1, 1, 384).reshape(2, 3, 8, 8)
def logits(model):
    with torch.no_grad():
        return model(pixels).logits.double().tolist()
"""


@pytest.fixture
def hub():
    with HubServer(dict(TOKENS)) as server:
        yield server


@pytest.fixture
def client(hub, tmp_path):
    """Runs code in a new process, and returns what it printed last, as JSON; or its error, in a word and in full."""

    def run(code, *arguments, token=ANN, home="home", fails=False, **variables):
        environment = {**os.environ, **hub.environment(tmp_path / home, token), "PYTHONPATH": str(ROOT), **variables}
        command = [sys.executable, "-c", PREAMBLE + code, *map(str, arguments)]
        result = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path, env=environment)
        assert (result.returncode != 0) == fails, result.stdout + result.stderr
        assert not any(secret in result.stdout + result.stderr for secret in TOKENS)
        return result.stderr if fails else json.loads(result.stdout.splitlines()[-1])

    return run


MODEL = """
import hf_focal
from transformers import ViTConfig, ViTForImageClassification
torch.manual_seed(0)
sizes = dict(hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=16, image_size=8)
model = ViTForImageClassification(ViTConfig(**sizes, patch_size=4, num_labels=3)).eval()
raw = logits(model)
hf_focal.fold_temperature(model, 2.0)
model.save_pretrained("model")
"""


def test_what_is_pushed_is_what_is_loaded(hub, client):
    raw = client(MODEL + "hf_focal.push_to_hub('model', 'ann/model'); print(json.dumps(raw))")
    assert [commit.message for commit in hub.commits("ann/model")] == [
        "initial commit", "Upload a calibrated classifier",
    ]  # fmt: skip
    stock = "print(json.dumps(logits(transformers.AutoModelForImageClassification.from_pretrained('ann/model'))))"
    folded = client("sys.modules['hf_focal'] = None\n" + stock)
    assert [[2 * value for value in row] for row in folded] == [pytest.approx(row, rel=1e-6) for row in raw]
