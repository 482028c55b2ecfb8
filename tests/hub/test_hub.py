# Copyright 2026 The hf_focal authors. Licensed under the Apache License, Version 2.0.
"""Calibrated models through the Hub: the real client in processes of its own, against a server on loopback."""

import itertools
import json
import os
import re
import subprocess
import sys
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import yaml
from conftest import ROOT
from hub_server import File, HubServer
from scipy.special import expit, softmax


ANN, BOB = "hf_ann_very_secret", "hf_bob_very_secret"
WRONG = "hf_unknown_but_secret"
PICKLES = (".bin", ".pt", ".pth", ".pkl", ".pickle", ".ckpt")
NUMBERS = itertools.count()


@pytest.fixture(scope="module")
def hub(tmp_path_factory):
    with HubServer({ANN: "ann", BOB: "bob"}) as server:
        yield server


@pytest.fixture(scope="module")
def worker(hub, tmp_path_factory):
    variables = hub.environment(tmp_path_factory.mktemp("home"))
    environment = {**os.environ, **variables, "PYTHONPATH": str(ROOT)}
    command = [sys.executable, str(ROOT / "tests" / "hub_client.py")]
    with subprocess.Popen(command, stdin=-1, stdout=-1, stderr=subprocess.DEVNULL, text=True, env=environment) as job:
        yield job
        job.stdin.close()


@pytest.fixture
def client(repo, worker, tmp_path):
    """Runs code on the client's side. Returns its `result`, or with `fails` all that it wrote to stderr."""

    def run(code, token=ANN, fails=False, cache="cache"):
        paths = {name: str(tmp_path / name) for name in ("stdout", "stderr")}
        job = {"code": code, "token": token or "", "cache": str(tmp_path / cache), "folder": str(tmp_path), **paths}
        worker.stdin.write(json.dumps(job) + "\n")
        worker.stdin.flush()
        status = int(worker.stdout.readline())
        stdout, stderr = (Path(path).read_text() for path in paths.values())
        assert not any(secret in stdout + stderr for secret in (ANN, BOB, WRONG)), "a token was written"
        assert (status != 0) == fails, stdout + stderr
        return stderr if fails else json.loads(stdout.splitlines()[-1])

    return run


@pytest.fixture
def repo(hub):
    hub.faults.clear()
    return f"ann/model-{next(NUMBERS)}"


def stranger(hub, tmp_path, code, **variables):
    """Runs code in a new process that cannot import hf_focal; returns what it prints, as JSON."""
    environment = {**os.environ, **hub.environment(tmp_path / "stranger"), **variables}
    command = [sys.executable, "-c", "import sys; sys.modules['hf_focal'] = None\n" + code]
    result = subprocess.run(command, capture_output=True, text=True, env=environment, cwd=tmp_path)
    assert result.returncode == 0, result.stderr
    return json.loads(result.stdout.splitlines()[-1])


def halves(raw):
    return [pytest.approx([value / 2 for value in row], abs=1e-6) for row in raw]


def check_commits(hub, repo, calibrated=True):
    """What must hold for every commit of every branch; returns the messages of `main`."""
    for commit in itertools.chain(*hub.repositories[repo].branches.values()):
        for path, file in commit.files.items():
            assert not path.endswith(PICKLES) and "checkpoint" not in path
            assert not any(secret.encode() in file.data for secret in (ANN, BOB, WRONG))
        if "model.safetensors" in commit.files and calibrated:
            assert json.loads(commit.files["config.json"].data)["calibration"]["temperature"] > 0
            assert b"mukhoti2020calibrating" in commit.files["README.md"].data
    return [commit.message for commit in hub.commits(repo)]


# ---- The trainer ----------------------------------------------------------------------------------------------------


def test_a_trainer_pushes_once_calibrated_and_all_that_a_stranger_needs(hub, client, repo, tmp_path):
    result = client(f"""
trainer = make_trainer("out", push_to_hub=True, hub_model_id={repo!r}, hub_token={ANN!r})
trainer.train()
trainer.save_model()  # pushes under the stock Trainer
raw = logits(trainer.model.eval())
fit = trainer.calibrate()
trainer.push_to_hub()
open("out/README.md", "a").write("A remark of mine.")
trainer.push_to_hub(commit_message="A remark")
result |= dict(raw=raw, temperature=fit.temperature, ece=[fit.before["ece"], fit.after["ece"]])
""")
    assert check_commits(hub, repo) == ["initial commit", "End of training", "A remark"]
    _, first, second = hub.commits(repo)
    assert set(first.files) == {
        ".gitattributes", "README.md", "config.json", "model.safetensors", "preprocessor_config.json",
        "reliability.png", ".head_before_calibration.safetensors",
    }  # fmt: skip
    assert [path for path in first.files if first.files[path] != second.files[path]] == ["README.md"]
    card = first.files["README.md"].data.decode()
    metrics = yaml.safe_load(card.split("---")[1])["model-index"][0]["results"][0]
    assert metrics["dataset"]["split"] == "validation"
    values = [metric["value"] for metric in metrics["metrics"] if metric["type"] == "ece"]
    assert values == pytest.approx(result["ece"])
    for metric in metrics["metrics"]:
        low, high = metric["args"]["interval"]
        assert 0 <= low <= high and metric["args"]["level"] == 0.9
        assert metric["type"] not in ("accuracy", "nll", "brier") or low <= metric["value"] <= high
    assert "fitted on these very samples" in card and f'model="{repo}"' in card
    found = stranger(hub, tmp_path, f"""
import json, torch
from transformers import AutoImageProcessor, AutoModelForImageClassification
AutoImageProcessor.from_pretrained({repo!r})
pixels = torch.linspace(-1, 1, 3 * 8 * 8 * 2).reshape(2, 3, 8, 8)
print(json.dumps(AutoModelForImageClassification.from_pretrained({repo!r})(pixels).logits.softmax(-1).tolist()))
""")  # fmt: skip
    assert np.abs(softmax(np.array(result["raw"]) / result["temperature"], axis=1) - found).max() < 1e-6


@pytest.mark.parametrize("fold", [True, False])
def test_a_head_of_sigmoids_comes_back_from_the_hub(client, repo, fold):
    found = client(f"""
import numpy as np
from hf_focal.calibrators.platt import PlattScaling
from hf_focal.models.fold import put_on_top
model = tiny_model()
model.config.problem_type = "multi_label_classification"
calibrator = PlattScaling((0.5, 1.5, 1.0), (1.0, -1.0, 0.5), (0.8, 0.1))
expected = calibrator.probabilities(np.array(logits(model)))
put_on_top(model, calibrator, fold={fold})
model.save_pretrained("out")
hf_focal.push_to_hub("out", {repo!r}, token={ANN!r})
again = hf_focal.from_pretrained({repo!r}, token={ANN!r})
result |= {{"expected": expected.tolist(), "logits": logits(again), "record": again.config.calibration}}
result["kind"] = again.config.problem_type
""")
    assert found["record"]["activation"] == "sigmoid" and found["record"]["folded"] is fold
    assert found["kind"] == "multi_label_classification"
    assert np.abs(expit(np.array(found["logits"])) - found["expected"]).max() < 1e-6


@pytest.mark.parametrize("kind", ["tree_lstm", "global_pooling_cnn"])
def test_the_text_networks_of_the_paper_arrive_with_their_vocabulary(client, repo, kind):
    """Pushed, and loaded from an empty cache by the Auto classes, a stock pipeline and one of ours."""
    texts = ["(3 (2 It) (4 (2 is) (4 good)))", "(1 (2 It) (0 fails))"] if kind == "tree_lstm" else ["It is good", "No"]
    pushed = client(f"""
import torch
from hf_focal.networks import create_{kind}
torch.manual_seed(0)
model, tokenizer = create_{kind}({texts!r}, ["bad", "good"], embedding_size=4, hidden_size=3)
data = [{{**tokenizer(text), "labels": index % 2}} for index, text in enumerate({texts!r} * 120)]
args = hf_focal.CalibrationTrainingArguments("out", use_cpu=True, report_to="none", hub_model_id={repo!r})
trainer = hf_focal.CalibrationTrainer(model=model, args=args, eval_dataset=data, processing_class=tokenizer)
logits = trainer.predict(data[:2]).predictions
fit = trainer.calibrate()
trainer.push_to_hub()
result |= {{"logits": logits.tolist(), "temperature": fit.temperature}}
""")
    loaded = client(
        f"""
import transformers
import hf_focal.networks
result["found"] = [
    [[row["score"] for row in sorted(rows, key=lambda row: row["label"])]
     for rows in pipeline("text-classification", model={repo!r}, top_k=None)({texts!r})]
    for pipeline in (transformers.pipeline, hf_focal.pipeline)
]
""",
        cache="empty",
    )
    expected = softmax(np.array(pushed["logits"], dtype=np.float64) / pushed["temperature"], axis=1)
    assert len(loaded["found"]) == 2
    for found in loaded["found"]:
        assert np.abs(np.array(found) - expected).max() < 1e-6


@pytest.mark.slow
def test_an_image_text_model_arrives_with_its_two_processors(hub, client, repo, tmp_path):
    pushed = client(f"""
import torch
from small_zero_shot import CIFAR, clip, pixels, rows
model, processor = clip(3.5)
hf_focal.zero_shot_classifier(model, processor, CIFAR)
with torch.no_grad():
    labels = torch.distributions.Categorical(logits=model(pixel_values=pixels(300)).logits / 2).sample()
args = hf_focal.CalibrationTrainingArguments("out", use_cpu=True, report_to="none", hub_model_id={repo!r})
trainer = hf_focal.CalibrationTrainer(model=model, args=args, processing_class=processor)
fit = trainer.calibrate(rows(pixels(300), labels))
trainer.push_to_hub()
result |= dict(scale=model.logit_scale.item(), labels=CIFAR, temperature=fit.temperature)
""")
    files = set(hub.commits(repo)[-1].files)
    assert {"processor_config.json", "tokenizer.json", "tokenizer_config.json", "model.safetensors"} <= files
    found = stranger(hub, tmp_path, f"""
import json, transformers
from PIL import Image
classifier = transformers.pipeline("zero-shot-image-classification", {repo!r})
record = classifier.model.config.calibration
scores = classifier(Image.new("RGB", (40, 40)), candidate_labels=record["candidate_labels"])
print(json.dumps([classifier.model.logit_scale.item(), record["candidate_labels"], len(scores)]))
""")  # fmt: skip
    assert found == [pushed["scale"], pushed["labels"], 10]
    assert pushed["scale"] == pytest.approx(3.5 - np.log(pushed["temperature"])) and pushed["temperature"] > 1.2
    undone = client(f"""
model = hf_focal.unfold_calibrator(hf_focal.from_pretrained({repo!r}))
result |= dict(scale=model.logit_scale.item())
""")
    assert undone["scale"] == 3.5


def test_checkpoints_are_pushed_only_where_asked_for_and_never_with_pickles(hub, client, repo):
    client(f"""
trainer = make_trainer("out", push_to_hub=True, hub_model_id={repo!r}, hub_strategy="every_save")
trainer.train()
trainer.calibrate()
trainer.save_model()
""")
    messages = check_commits(hub, repo, calibrated=False)
    steps = ["Training in progress, step 2", "Training in progress, step 4"]
    assert messages == ["initial commit", *steps, "Model save"]
    error = client('make_trainer("out", hub_strategy="all_checkpoints")', fails=True)
    assert "would push optimizer states, which are pickles" in error
    client(f"""
from transformers import TrainingArguments
args = TrainingArguments("other", push_to_hub=True, hub_model_id="{repo}-b", use_cpu=True, save_strategy="epoch")
hf_focal.CalibrationTrainer(model=tiny_model(), args=args, train_dataset=samples(8)).train()
""")
    assert check_commits(hub, f"{repo}-b") == ["initial commit"]


def test_a_model_that_was_never_calibrated_goes_up_when_told_to_with_a_card_that_says_so(hub, client, repo):
    client(f'make_trainer("out", hub_model_id={repo!r}).push_to_hub(license="mit", tags="mine", dataset="user/set")')
    card = hub.commits(repo)[-1].files["README.md"].data.decode()
    data = yaml.safe_load(card.split("---")[1])
    assert "No temperature has been fitted" in card and "model-index" not in data
    assert data["license"] == "mit" and "mine" in data["tags"] and data["datasets"] == ["user/set"]


@pytest.mark.parametrize("fold", [True, False])
def test_pushed_again_calibrated_again_trained_again_it_is_divided_once(hub, client, repo, fold):
    """Each time our loader gives the probabilities that the trainer measured."""
    result = client(f"""
def check():
    pushed = hf_focal.from_pretrained({repo!r})
    result.setdefault("gaps", []).append((logits(pushed), raw, pushed.config.calibration["temperature"]))
    return pushed
options = dict(push_to_hub=True, hub_model_id={repo!r}, fold_temperature={fold}, temperature_criterion="nll")
trainer = make_trainer("out", **options)
trainer.train(); raw = logits(trainer.model.eval())
trainer.calibrate(); trainer.push_to_hub()
loaded = check()
loaded.save_pretrained("again"); hf_focal.push_to_hub("again", {repo!r})
loaded = check()
trainer = make_trainer("new", loaded, **options)
result["evaluated"] = [trainer.evaluate()["eval_nll"]]
trainer.push_to_hub()
check()
fit = trainer.calibrate(); trainer.push_to_hub()
result["evaluated"] += [fit.after["nll"], trainer.evaluate()["eval_nll"]]
loaded = check()
trainer = make_trainer("newer", loaded, learning_rate=1e-2, **options)
trainer.train()
result["forgotten"] = getattr(trainer.model.config, "calibration", None) is None
raw = logits(trainer.model.eval())
trainer.calibrate()
trainer.push_to_hub()
check()
""")
    assert result["forgotten"] and len(result["gaps"]) == 5
    assert not np.allclose(result["gaps"][3][1], result["gaps"][4][1], atol=1e-3)  # training changed it
    for found, raw, temperature in result["gaps"]:
        assert temperature > 1.5  # dividing twice would show
        # The weights of a trainer in training mode and of a loaded one are compared in evaluation mode.
        assert np.abs(np.array(raw) / temperature - found).max() < 1e-5
    assert result["evaluated"] == pytest.approx([result["evaluated"][0]] * 3, rel=1e-5)


# ---- Repositories ---------------------------------------------------------------------------------------------------


def test_a_folder_is_pushed_without_what_does_not_belong_there(hub, client, repo, tmp_path):
    code = f"""
raw = save("model")
for name in ("training_args.bin", "optimizer.pt", ".env", "notes.txt", "secrets.json", "all_results.json"):
    open("model/" + name, "w").write({ANN!r})
import os; os.makedirs("model/checkpoint-2"); open("model/checkpoint-2/model.safetensors", "w").write("x")
open("model/predictions.safetensors", "w").write("logits")
"""
    client(code + f'hf_focal.push_to_hub("model", {repo!r})')
    usual = {".gitattributes", "README.md", "config.json", "model.safetensors", ".head_before_calibration.safetensors"}
    assert set(hub.commits(repo)[-1].files) == usual
    assert f'model="{repo}"' in hub.commits(repo)[-1].files["README.md"].data.decode()
    client(f'hf_focal.push_to_hub("model", {repo!r}, push_predictions=True)')
    assert set(hub.commits(repo)[-1].files) == usual | {"predictions.safetensors"}
    assert "holds no model" in client(f'hf_focal.push_to_hub("nowhere", {repo!r})', fails=True)


def test_private_repositories_open_to_their_owner_alone(hub, client, repo):
    load = f"result['logits'] = logits(hf_focal.from_pretrained({repo!r}))"
    raw = client(f'result["raw"] = save("model"); hf_focal.push_to_hub("model", {repo!r}, private=True)')["raw"]
    assert hub.repositories[repo].private
    assert client(load)["logits"] == halves(raw)
    with_token = load.replace(repr(repo), f"{repo!r}, token={ANN!r}")
    assert client(with_token, token=None, cache="other")["logits"] == halves(raw)
    for number, token in enumerate((None, BOB, WRONG)):
        error = client(load, token=token, fails=True, cache=f"empty-{number}")
        assert "OSError" in error and repo in error


def test_a_wrong_token_or_a_name_of_somebody_else_is_refused_before_training(hub, client):
    client('save("model"); hf_focal.push_to_hub("model", "bob/taken")', token=BOB)
    push = 'save("model"); hf_focal.push_to_hub("model", {!r})'
    start = 'make_trainer("out", push_to_hub=True, hub_model_id={!r}); print("started")'
    for code in (push, start):
        for token, name, words in (
            (WRONG, "ann/new", "Invalid credentials"),
            (ANN, "bob/taken", "no permission"),
            (ANN, "bob/new", "rights to create"),
            (None, "ann/new", "401"),
        ):
            error = client(code.format(name), token=token, fails=True)
            assert f"OSError: Cannot push to {name}" in error and words in error, error
            assert error.count("Traceback") == 1
    assert len(hub.commits("bob/taken")) == 2
    assert "ann/new" not in hub.repositories and "bob/new" not in hub.repositories
    broken = WRONG + "\n"  # the client quotes such a header in its error
    error = client(f'save("model"); hf_focal.push_to_hub("model", "ann/new", token={broken!r})', fails=True)
    assert "OSError: Cannot push to ann/new" in error
    for load in ("from_pretrained(", "pipeline(model="):
        for wrong in (broken, WRONG + "\n" + WRONG, WRONG + "\u00e9"):
            error = client(f'hf_focal.{load}"ann/new", token={wrong!r})', fails=True)
            assert "OSError" in error if wrong == broken else "ValueError: The token" in error


DOORS = """
import logging, pickle
logging.getLogger("huggingface_hub").setLevel("DEBUG")
def behind(error):
    seen, waiting = [], [error]
    while waiting:
        if (one := waiting.pop()) is not None and one not in seen:
            seen.append(one)
            waiting += [one.__cause__, one.__context__]
    return seen
def look(door, kinds=(OSError,)):
    try:
        door()
    except kinds as error:
        print(repr(error), [(type(one).__name__, str(one), one.args, vars(one)) for one in behind(error)])
        traceback.print_exc()
        result.setdefault("said", []).append(str(error))
    else:
        raise AssertionError("it passed")
def trainer(**options):
    return make_trainer("out", hub_model_id="ann/echo", **options)
save("model")
doors = [
    lambda token: hf_focal.push_to_hub("model", "ann/echo", token=token),
    lambda token: hf_focal.from_pretrained("ann/echo", token=token),
    lambda token: hf_focal.pipeline("image-classification", model="ann/echo", token=token),
    lambda token: hf_focal.create_image_classifier("ann/echo", ["a", "b"], token=token),
    lambda token: trainer(push_to_hub=True, hub_token=token),
    lambda token: trainer().push_to_hub(token=token),
    lambda token: trainer(hub_token=token).push_to_hub(blocking=False).result(),
]
"""


LOOK = "for door in doors:\n    look(lambda: door({}))\nlook(lambda: hf_focal.load_image_dataset('a/b'))"


def test_a_server_that_sends_the_token_back_does_not_get_it_shown(hub, client, repo):
    """The client of these tests asserts that it wrote no token."""
    hub.fail(".", 403, times=10**6, echo=True)
    said = client(DOORS + LOOK.format(repr(ANN)), token=None)["said"]
    said += client(DOORS + LOOK.format(None))["said"]
    assert len(said) == 16
    assert sum("who is Bearer <token>?" in text for text in said) >= 8


def test_a_server_that_is_not_there_is_one_plain_error(hub, client, repo):
    hub.fail(".", times=10**6)
    said = client(DOORS + LOOK.format(repr(ANN)))["said"]
    assert len(said) == 8 and all(text.strip() for text in said)
    assert len(client("constants.HF_HUB_OFFLINE = True\n" + DOORS + LOOK.format(None))["said"]) == 8


@pytest.mark.parametrize("token", [f"{ANN}\n{BOB}", ANN + "\u00e9", f"Bearer {ANN}"])
def test_a_token_that_cannot_be_sent_is_refused_at_every_door(client, token):
    code = DOORS + f"for door in [*doors[:3], *doors[4:]]:\n    look(lambda: door({token!r}), ValueError)"
    said = client(code, token=None)["said"]
    assert len(said) == 6 and all("The token is empty or holds characters that no token has" in text for text in said)


def test_revisions_and_tags_bring_back_what_was(hub, client, repo):
    result = client(f"""
from huggingface_hub import HfApi
result["first"] = save("model", seed=1, temperature=2.0)
hf_focal.push_to_hub("model", {repo!r})
HfApi().create_tag({repo!r}, tag="v1")
HfApi().create_branch({repo!r}, branch="next")
result["second"] = save("model", seed=2, temperature=2.0)
done = hf_focal.push_to_hub("model", {repo!r}, revision="next")
for revision in ("v1", None, "next", done.oid):
    result[str(revision)] = logits(hf_focal.from_pretrained({repo!r}, revision=revision))
result["oid"] = done.oid
""")
    assert result["v1"] == result["None"] == halves(result["first"])
    assert result["next"] == result[result["oid"]] == halves(result["second"])
    error = client(f'hf_focal.from_pretrained({repo!r}, revision="v9")', fails=True)
    assert "OSError" in error and "v9" in error


def test_two_pushes_at_once_both_arrive_whole(hub, client, repo):
    client(f"""
import os
from huggingface_hub import HfApi
save("one", seed=1), save("two", seed=2)
HfApi().create_repo({repo!r})
children = []
for folder in ("one", "two"):
    if (child := os.fork()) == 0:
        hf_focal.push_to_hub(folder, {repo!r}, commit_message=folder)
        os._exit(0)
    children.append(child)
result["codes"] = [os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) for child in children]
assert result["codes"] == [0, 0]
result["loaded"] = logits(hf_focal.from_pretrained({repo!r}))
""")
    messages = check_commits(hub, repo)
    assert sorted(messages) == ["initial commit", "one", "two"]
    weights = [commit.files["model.safetensors"].oid for commit in hub.commits(repo)[1:]]
    assert len(set(weights)) == 2


@pytest.mark.parametrize("fold", [True, False])
def test_an_adapter_is_pushed_with_its_record_and_loaded_into_its_base_model(hub, client, repo, fold):
    result = client(f"""
from peft import LoraConfig, get_peft_model
from transformers import AutoModelForImageClassification
tiny_model().save_pretrained("base")
hf_focal.push_to_hub("base", "{repo}-base")
base = AutoModelForImageClassification.from_pretrained(
    "{repo}-base", num_labels=3, id2label=dict(enumerate("xyz")), label2id=dict(x=0, y=1, z=2)
)
settings = LoraConfig(
    r=2, target_modules=["q_proj"], init_lora_weights=False, modules_to_save=["classifier"]
)
options = dict(hub_model_id={repo!r}, fold_temperature={fold}, temperature_criterion="nll")
trainer = make_trainer("out", get_peft_model(base, settings), **options)
result["raw"] = logits(trainer.model.eval())
result["temperature"] = trainer.calibrate().temperature
trainer.push_to_hub()
""")
    assert abs(result["temperature"] - 1) > 0.1
    files = hub.commits(repo)[-1].files
    assert set(files) == {
        ".gitattributes", "README.md", "adapter_config.json", "adapter_model.safetensors", "calibration.json",
        "preprocessor_config.json", "reliability.png", *([".head_before_calibration.safetensors"] if fold else []),
    }  # fmt: skip
    card = files["README.md"].data.decode()
    assert yaml.safe_load(card.split("---")[1])["base_model"] == f"{repo}-base"
    assert "from hf_focal import pipeline" in card and f'model="{repo}"' in card
    load = f"result['logits'] = logits(hf_focal.from_pretrained({repo!r}))"
    loaded = client(
        f"""
from PIL import Image
model = hf_focal.from_pretrained({repo!r})
result |= dict(logits=logits(model), labels=[*model.config.id2label.values()])
rows = hf_focal.pipeline(model={repo!r})(Image.new("RGB", (8, 8)))
result["shown"] = sorted(row["label"] for row in rows)
result["offline"] = logits(hf_focal.from_pretrained({repo!r}, local_files_only=True))
""",
        cache="clean",
    )
    expected = np.array(result["raw"]) / result["temperature"]
    assert np.abs(loaded["logits"] - expected).max() < 1e-5 and loaded["offline"] == loaded["logits"]
    assert loaded["labels"] == loaded["shown"] == [*"xyz"]
    hub.fail("calibration.json", 500, times=1000)  # a record that cannot be read is not one that is not there
    assert "500" in client(load, fails=True, cache="fresh")
    hub.faults.clear()
    pickled = f"""
import os, torch
from huggingface_hub import HfApi, CommitOperationAdd, CommitOperationDelete
class Bomb:
    def __reduce__(self):
        return (open, ("exploded", "w"))
torch.save({{"bomb": Bomb()}}, "adapter_model.bin")
add = CommitOperationAdd(path_in_repo="adapter_model.bin", path_or_fileobj="adapter_model.bin")
operations = [add, CommitOperationDelete("adapter_model.safetensors")]
HfApi().create_branch({repo!r}, branch="pickle")
HfApi().create_commit({repo!r}, operations, commit_message="pickle", revision="pickle")
try:
    hf_focal.from_pretrained({repo!r}, revision="pickle")
except Exception as error:
    result["error"] = str(error)
result["exploded"] = os.path.exists("exploded")
"""
    result = client(pickled)
    assert "eights" in result["error"] and "only" in result["error"] and not result["exploded"]
    record = json.loads(files["calibration.json"].data)
    for temperature in (0, "2", 1e300):
        code = f"""
import json
from huggingface_hub import HfApi
record = json.dumps({record | {"temperature": temperature}!r}).encode()
HfApi().upload_file(path_or_fileobj=record, path_in_repo="calibration.json", repo_id={repo!r})
"""
        error = client(code + load, fails=True)
        assert f"calibration.json of {repo} is refused: calibration['temperature']" in error


# ---- When things go wrong -------------------------------------------------------------------------------------------


def test_a_server_that_dies_in_the_middle_leaves_the_folder_whole_and_the_next_push_completes(
    hub, client, repo, tmp_path
):
    client('save("model")')
    hub.fail("PUT /lfs/|/commit/", times=1000)
    push = f'hf_focal.push_to_hub("model", {repo!r})'
    error = client(push, fails=True)
    assert f"OSError: Cannot push to {repo}" in error and "model is complete: push it again by" in error
    assert error.count("Traceback") == 1
    assert check_commits(hub, repo) == ["initial commit"]
    hub.faults.clear()
    client("hf_focal.from_pretrained('model')")
    client(push)
    assert len(check_commits(hub, repo)) == 2
    for path, file in hub.commits(repo)[-1].files.items():
        assert path == ".gitattributes" or (tmp_path / "model" / path).read_bytes() == file.data


@pytest.mark.parametrize("status", [500, 429])
def test_a_busy_server_is_asked_again_and_a_broken_one_reported(hub, client, repo, status):
    hub.fail("PUT /lfs/|/preupload/|POST .*/objects/", status, times=3)
    client(f'save("model"); hf_focal.push_to_hub("model", {repo!r})')
    assert len(check_commits(hub, repo)) == 2
    hub.fail("HEAD .*/config.json|GET .*/model.safetensors", status, times=2)
    client(f"hf_focal.from_pretrained({repo!r})", cache="second")
    hub.fail("/commit/", status, times=1000)
    error = client(f'save("model", seed=5); hf_focal.push_to_hub("model", {repo!r})', fails=True)
    assert f"OSError: Cannot push to {repo}" in error and str(status) in error
    assert len(check_commits(hub, repo)) == 2


def test_failed_checkpoint_pushes_do_not_stop_training(hub, client, repo):
    hub.fail("/commit/", 500, times=1000)
    client(f"""
trainer = make_trainer("out", push_to_hub=True, hub_model_id={repo!r}, hub_strategy="every_save")
result["steps"] = trainer.train().global_step
""")
    assert check_commits(hub, repo) == ["initial commit"]


def test_without_a_network_the_cache_serves(hub, client, repo, tmp_path):
    load = f"result['logits'] = logits(hf_focal.from_pretrained({repo!r}, local_files_only=True))"
    assert "OSError" in client(load, fails=True)
    raw = client(f"""
result["raw"] = save("model", temperature=2.0)
hf_focal.push_to_hub("model", {repo!r})
hf_focal.from_pretrained({repo!r})
""")["raw"]
    hub.fail(".", 500, times=1000)
    asked = len(hub.log)
    assert client(load)["logits"] == halves(raw)
    assert hub.log[asked:] == [], hub.log[asked:]
    load = load.replace(", local_files_only=True", "")
    assert client("constants.HF_HUB_OFFLINE = True\n" + load)["logits"] == halves(raw)
    assert hub.log[asked:] == [], hub.log[asked:]


def flip(data):
    return data[:-5] + bytes([data[-5] ^ 1]) + data[-4:]


@pytest.mark.parametrize(
    ("damage", "file"),
    [(flip, "model.safetensors"), (lambda data: data[: len(data) // 2], "model.safetensors"), (flip, "config.json")],
)
def test_a_damaged_download_is_refused_and_the_next_one_is_clean(hub, client, repo, damage, file):
    raw = client(f'result["raw"] = save("model"); hf_focal.push_to_hub("model", {repo!r})')["raw"]
    hub.fail(f"GET .*/{file}", damage=damage, times=1)
    load = f"result['logits'] = logits(hf_focal.from_pretrained({repo!r}))"
    error = client(load, fails=True)
    assert "OSError" in error
    assert client(load)["logits"] == halves(raw)


def without_uploads(data):
    """The answer of a server that says of each large file that it has it."""
    answer = json.loads(data)
    for entry in answer["objects"]:
        entry.pop("actions", None)
    return json.dumps(answer).encode()


def note(hub, repo):
    files = hub.commits(repo)[-1].files
    hub.repositories[repo].commit("main", "A note", {**files, "NOTE.md": File(b"Of somebody's", False)})


def replace_model(hub, repo):
    """A commit with weights and config of another model, all in order."""
    files, others = (hub.commits(one)[-1].files for one in (repo, f"{repo}-other"))
    hub.repositories[repo].commit("main", "Another model", {**files, **others})


# What goes wrong, and what then has to be: the error, or None where the client gets through. Each has a repository of
# its own, in its place for REPO.
PUSHES = {
    "dies once": ("REPO/preupload/", {}, None),
    "dies": ("REPO/commit/", {"times": 1000}, "Cannot push"),
    "throttles a while": ("REPO/preupload/", {"status": 429, "times": 3}, None),
    "throttles": ("REPO/preupload/", {"status": 429, "times": 1000}, "429"),
    "is no Hub": ("REPO/preupload/", {"damage": lambda data: b"<html>Sign in</html>"}, "Cannot push"),
    "forgets what was asked": ("REPO/preupload/", {"damage": lambda data: b'{"files": []}'}, "Cannot push"),
    "loses its answer": ("REPO/commit/", {"damage": lambda data: data[:5]}, "Cannot push"),
    "says that it has the weights": (
        "REPO.git/.*/batch", {"damage": without_uploads, "then": lambda hub, repo: hub.large.clear()}, "Cannot push"
    ),
    "forgets the user": ("REPO/commit/", {"status": 401, "times": 1000}, "401"),
    "loses the repository": ("REPO/preupload/", {"then": lambda hub, repo: hub.repositories.pop(repo)}, "Cannot push"),
    "gets a commit of somebody's": ("REPO/commit/", {"then": lambda hub, repo: note(hub, repo)}, None),
}  # fmt: skip
PULLS = {
    "dies": ("HEAD /REPO/.*/config.json", {"times": 1000}, "OSError"),
    "dies within the weights": ("GET /REPO/.*/model.safetensors", {"cut": True}, None),
    "dies within the weights for ever": ("GET /REPO/.*/model.safetensors", {"cut": True, "times": 1000}, "OSError"),
    "throttles a while": ("GET /REPO/.*/model.safetensors", {"status": 429, "times": 2}, None),
    "throttles": ("GET /REPO/.*/config.json", {"status": 429, "times": 1000}, "429"),
    "is no Hub": ("GET /REPO/.*/config.json", {"damage": lambda data: b"<html>Sign in</html>"}, "OSError"),
    "sends other weights": ("GET /REPO/.*/model.safetensors", {"damage": lambda data: flip(data)}, "damaged"),
    "forgets the user": ("GET /REPO/.*/model.safetensors", {"status": 401, "times": 1000}, "OSError"),
    "loses the repository": (
        "HEAD /REPO/.*/model.safetensors", {"then": lambda hub, repo: hub.repositories.pop(repo)}, "OSError"
    ),
    "gets another model": (
        "HEAD /REPO/.*/model.safetensors", {"then": lambda hub, repo: replace_model(hub, repo)}, None
    ),
}  # fmt: skip

ATTEMPTS = """
def attempt(action):
    try:
        return action()
    except Exception as error:
        return f"{type(error).__name__}: {error}"
"""


def set_faults(hub, repo, table):
    """A repository for each fault of a table, by what goes wrong."""
    repos = {said: f"{repo}-{number}" for number, said in enumerate(table)}
    for said, (pattern, fault, _) in table.items():
        happens = {"then": partial(fault["then"], hub, repos[said])} if "then" in fault else {}
        hub.fail(pattern.replace("REPO", re.escape(repos[said])), **{**fault, **happens})
    return repos


def unexpected(table, found, whole):
    return {
        said: found[said]
        for said, (*_, error) in table.items()
        if (found[said] != whole if error is None else error not in str(found[said]))
    }


def test_whatever_a_server_does_a_push_arrives_whole_or_is_one_plain_error(hub, client, repo, tmp_path):
    repos = set_faults(hub, repo, PUSHES)
    push = f"""
for said, repo in {repos!r}.items():
    result[said] = attempt(lambda: bool(hf_focal.push_to_hub("model", repo)))
"""
    hub.large.clear()
    found = client(f'{ATTEMPTS}save("model"){push}')
    assert not unexpected(PUSHES, found, True)
    for said, answer in found.items():
        assert answer is True or re.match("OSError: Cannot push to .* is complete: push it again by", answer), answer
        commits = hub.commits(repos[said]) if repos[said] in hub.repositories else []
        whole = [commit for commit in commits if "config.json" in commit.files]
        assert len(whole) == (answer is True or said == "loses its answer"), said
    hub.faults.clear()
    assert set(client(f"{ATTEMPTS}{push}").values()) == {True}
    for repo in repos.values():
        pushed = {path: file.data for path, file in hub.commits(repo)[-1].files.items()}
        assert {"config.json", "model.safetensors", "README.md"} <= {*pushed}
        assert ("NOTE.md" in pushed) == (repo == repos["gets a commit of somebody's"])
        for path in {*pushed} - {".gitattributes", "NOTE.md", "README.md"}:  # whose snippet names its repository
            assert (tmp_path / "model" / path).read_bytes() == pushed[path]


def test_whatever_a_server_does_what_is_loaded_is_one_commit_or_one_plain_error(hub, client, repo):
    names = {said: f"{repo}-{number}" for number, said in enumerate(PULLS)}
    raw = client(f"""
result["raw"] = save("model")
save("other", seed=7, temperature=0.5)
for repo in {[*names.values()]!r}:
    hf_focal.push_to_hub("model", repo)
hf_focal.push_to_hub("other", {f"{names['gets another model']}-other"!r})
""")["raw"]
    assert set_faults(hub, repo, PULLS) == names
    load = f"""
for said, repo in {names!r}.items():
    result[said] = attempt(lambda: logits(hf_focal.from_pretrained(repo)))
"""
    found = client(ATTEMPTS + load)
    assert not unexpected(PULLS, found, halves(raw))
    assert all(answer.startswith("OSError: ") for answer in found.values() if isinstance(answer, str)), found
    hub.faults.clear()  # and no damage stays in the cache
    again = client(ATTEMPTS + load)
    gone, other = again.pop("loses the repository"), again.pop("gets another model")
    assert gone.startswith("OSError: ") and other != halves(raw) and isinstance(other, list)
    assert all(answer == halves(raw) for answer in again.values()), again


def test_a_folder_that_is_no_classifier_or_does_not_exist_is_a_plain_error(client):
    assert "OSError" in client('hf_focal.from_pretrained("ann/nothing-there")', fails=True)


# ---- Cards ----------------------------------------------------------------------------------------------------------

EVIL = "x\ntags:\n- injected\n---\n# Heading | <script>`"


def test_the_hub_accepts_our_cards_whatever_the_names_in_them(client):
    result = client(f"""
evil = {EVIL!r}
logits, labels = [[2.0, 1.0], [0.0, 1.0], [3.0, 1.0]] * 20, [0, 1, 1] * 20
fit = hf_focal.fit_temperature(logits, labels)
record = dict(temperature=1.5, folded=True, loss=evil, split=evil, n_samples=evil, criterion=evil)
for name in ("plain", evil):
    rows = hf_focal.Predictions(torch.tensor(logits).numpy(), torch.tensor(labels).numpy(), split=name)
    about = hf_focal.About(name, "image-classification", record, dataset=name, dataset_config=name,
        dataset_revision=name, base_model=name)
    for report in (None, hf_focal.make_report(rows, fit)):
        card = hf_focal.create_model_card(about, report, model_id=name)
        card.validate()
        assert "injected" not in card.data.tags and str(card).count("\\n---\\n") == 2 - 1, str(card)
result["done"] = True
""")
    assert result["done"]


def test_the_stand_in_refuses_what_the_hub_would(client):
    for text in ("---\ntags: [1]\n---\n", "---\ndatasets: ['a b c']\n---\n"):
        assert "ValueError" in client(
            f"from huggingface_hub import ModelCard; ModelCard({text!r}, True).validate()", fails=True
        )


# ---- The script -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("fold", [True, False])
def test_the_script_pushes_a_model_whose_card_works(hub, repo, tmp_path, fold):
    environment = {**os.environ, **hub.environment(tmp_path / "home", ANN), "PYTHONPATH": str(ROOT)}
    flags = ["--model_name_or_path", "cifar_resnet8" if fold else "test_resnet", "--train_from_scratch"]
    flags += ["--num_train_epochs", "1", "--max_train_samples", "128", "--use_cpu", "true", "--output_dir", "out"]
    flags += ["--push_to_hub", "--hub_model_id", repo]
    flags += [] if fold else ["--no_fold_temperature", "--push_predictions"]
    command = [sys.executable, str(ROOT / "scripts" / "run_image.py"), *flags]
    result = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path, env=environment)
    assert result.returncode == 0, result.stderr
    assert ANN not in result.stdout + result.stderr
    assert f"Pushed to {hub.endpoint}/{repo}/commit/" in result.stdout
    assert check_commits(hub, repo) == ["initial commit", "End of training"]
    files = hub.commits(repo)[-1].files
    assert ("predictions.safetensors" in files) is not fold
    assert json.loads(files["config.json"].data)["calibration"]["folded"] is fold
    assert json.loads((tmp_path / "out" / "config.json").read_text()) == json.loads(files["config.json"].data)

    card = files["README.md"].data.decode()
    (snippet,) = re.findall(r"```python\n(.*?)```", card, flags=re.DOTALL)
    assert ("import hf_focal.networks" in snippet) is fold
    helped = json.loads(files["config.json"].data)["calibration"].get("helped", True)
    assert ("from hf_focal import pipeline" in snippet) is (helped and not fold)
    from hf_focal import load_image_dataset

    load_image_dataset()["test"][0]["image"].save(tmp_path / "image.png")
    code = (
        snippet
        + f"""
import json
import numpy as np
from safetensors.numpy import load_file
from scipy.special import expit, softmax
logits = load_file("out/predictions.safetensors")["test_logits"][0].astype(float)
temperature = json.load(open("out/config.json"))["calibration"]["temperature"]
scores = {{row["label"]: row["score"] for row in classifier("image.png", top_k=10)}}
gap = np.abs(softmax(logits / temperature) - [scores[str(digit)] for digit in range(10)]).max()
print(json.dumps([gap, {repo!r} in str(classifier.model.config._name_or_path)]))
"""
    )
    environment |= {"HF_HOME": str(tmp_path / "clean"), "HF_TOKEN": ""}
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=tmp_path, env=environment)
    assert ran.returncode == 0, ran.stderr
    gap, from_hub = json.loads(ran.stdout.splitlines()[-1])
    assert gap < 1e-5 and from_hub
    if fold:  # and so does the snippet of the README
        (snippet,) = re.findall(r"```python\n([^`]*push_to_hub[^`]*)```", (ROOT / "docs" / "share.md").read_text())
        code = snippet.replace("outputs/digits-resnet10t-flsd-53", "out").replace("user/name", repo + "-b")
        environment["HF_TOKEN"] = ANN
        ran = subprocess.run(
            [sys.executable, "-c", code], capture_output=True, text=True, cwd=tmp_path, env=environment
        )
        assert ran.returncode == 0 and "score" in ran.stdout, ran.stderr
        assert repo.encode() + b"-b" in hub.commits(repo + "-b")[-1].files["README.md"].data


def test_what_the_head_was_comes_back_from_the_hub_bit_for_bit(hub, client, repo):
    """However it was pushed, and whoever loaded it; without the file the Hub is asked in vain, and it is said."""
    result = client(
        f"""
import os
from transformers import AutoModelForImageClassification
from hf_focal.calibrators import VectorScaling
model = tiny_model()
before = model.classifier.weight.tolist()
factors = tuple(1 + index / 7 for index in range(model.config.num_labels))
hf_focal.fold_calibrator(model, VectorScaling(1.7, factors, factors))
model.save_pretrained("model", push_to_hub=True, repo_id="{repo}-a")
model.push_to_hub("{repo}-b")
hf_focal.push_to_hub("model", "{repo}-c")
os.unlink("model/.head_before_calibration.safetensors")
hf_focal.push_to_hub("model", "{repo}-d")
for name in "abc":
    for load in (AutoModelForImageClassification.from_pretrained, hf_focal.from_pretrained):
        loaded = load("{repo}-" + name)
        assert (loaded.classifier.weight.tolist() != before)
        result[name + load.__qualname__] = hf_focal.unfold_calibrator(loaded).classifier.weight.tolist() == before
try:
    hf_focal.unfold_calibrator(AutoModelForImageClassification.from_pretrained("{repo}-d"))
except ValueError as error:
    result["without"] = str(error)
""",
    )
    assert f"they belong as .head_before_calibration.safetensors in {repo}-d" in result.pop("without")
    assert len(result) == 6 and all(result.values())
    (commit,) = [one for one in hub.commits(f"{repo}-a") if "model.safetensors" in one.files]
    assert {".head_before_calibration.safetensors", "config.json"} < set(commit.files)
