# Copyright 2026 The hf_focal authors. Licensed under the Apache License, Version 2.0.
"""Names of models and folders that are not there: one sentence, with the nearest name, no advice on the rest."""

import os

import pytest
from huggingface_hub import constants
from huggingface_hub.errors import GatedRepoError, RepositoryNotFoundError

from hf_focal import create_image_classifier, create_text_classifier, from_pretrained, pipeline
from hf_focal.models.source import look_up
from hf_focal.names import means_folder, refuse_missing_folder, suggestion


LOADERS = {
    "image": lambda name: create_image_classifier(name, ["a", "b"], local_files_only=True),
    "text": lambda name: create_text_classifier(name, ["a", "b"], local_files_only=True),
    "load": lambda name: from_pretrained(name, local_files_only=True),
    "pipeline": lambda name: pipeline("image-classification", name, local_files_only=True),
}


@pytest.fixture(autouse=True)
def here(tmp_path, monkeypatch):
    """An empty folder but for outputs/run and a file, and a cache that is empty."""
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
    (tmp_path / "here" / "outputs" / "run").mkdir(parents=True)
    (tmp_path / "here" / "weights.bin").touch()
    monkeypatch.chdir(tmp_path / "here")


@pytest.mark.parametrize("load", LOADERS.values(), ids=LOADERS)
@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("./no/model", "There is no such folder: ./no/model."),
        ("/no/model", "There is no such folder: /no/model."),
        ("../none", "There is no such folder: ../none."),
        ("~/none", "There is no such folder: ~/none."),
        ("a/b/c", "There is no such folder: a/b/c."),
        ("outputs/rum", "There is no such folder: outputs/rum. Did you mean 'run'?"),
        ("outputs/run/", "outputs/run/ holds no model: there is n"),
        ("weights.bin", "weights.bin is a file, but a model is a folder."),
        ("./weights.bin", "./weights.bin is a file, but a model is a folder."),
        ("someone/model", "There is no folder 'someone/model' here, and it is not in the cache of the Hub, which"),
        ("two words", "There is no folder 'two words' here, and no model on the Hub can be called so."),
    ],
)  # fmt: skip
def test_a_model_that_is_not_there_is_told_in_one_sentence(load, name, message):
    with pytest.raises(OSError) as error:
        load(name)
    assert str(error.value).startswith(message) and "\n" not in str(error.value)
    for advice in ("internet", "repo_type", "Repo id", "connection"):
        assert advice not in str(error.value)


def test_the_nearest_name_is_suggested():
    for name, near in {"resnet10tt": "resnet10t", "cifar-resnet8": "cifar_resnet8", "ResNet18": "resnet18"}.items():
        with pytest.raises(OSError, match=f"Did you mean '{near}'"):
            LOADERS["image"](name)
    with pytest.raises(OSError, match="Did you mean 'tree-lstm'"):
        LOADERS["text"]("tree_lstm")
    with pytest.raises(ValueError, match="timm has no weights 'resnet18.a1_in1kk'. Did you mean 'resnet18.a1_in1k'?"):
        LOADERS["image"]("resnet18.a1_in1kk")


class Response:
    headers, request = {}, None


@pytest.mark.parametrize(("kind", "taken"), [(RepositoryNotFoundError, True), (GatedRepoError, False)])
def test_what_the_hub_lacks_is_said_and_what_it_locks_is_its_own_error(kind, taken):
    def ask():
        raise OSError("no valid identifier\nIf this is private") from kind("", response=Response())

    with pytest.raises(OSError) as error:
        look_up("someone/model", ask)
    assert ("the Hub has no such model (or it is private: log in" in str(error.value)) is taken
    assert taken is (error.value.__cause__ is None and error.value.__context__ is None)


def test_other_errors_pass():
    with pytest.raises(OSError, match="No space left"):
        look_up("someone/model", lambda: (_ for _ in ()).throw(OSError(28, "No space left on device")))


@pytest.mark.parametrize("name", ["./a", "../a", ".", "~/a", "~", "/a", "a/b/c", "a/", "outputs/none", "a\\b"])
def test_paths(name):
    assert means_folder(name)


@pytest.mark.parametrize("name", ["a", "a/b", "bert-base-uncased", "timm/resnet18.a1_in1k", "outputs"])
def test_ids(name):
    assert not means_folder(name)
    refuse_missing_folder(name)


def test_folders_that_are_there_pass_and_those_that_cannot_be_ids_must_be_there(monkeypatch, tmp_path):
    refuse_missing_folder("./outputs/run")
    refuse_missing_folder("outputs", on_hub=False)
    with pytest.raises(FileNotFoundError, match="no such folder: output. Did you mean 'outputs'?"):
        refuse_missing_folder("output", on_hub=False)
    with pytest.raises(FileNotFoundError, match="no such folder: ./none"):
        refuse_missing_folder("./none")
    monkeypatch.setenv("HOME", str(tmp_path))
    with pytest.raises(FileNotFoundError, match=f"~/here. Did you mean {tmp_path}/here?"):
        refuse_missing_folder("~/here")


def test_a_suggestion_is_near_whatever_the_case():
    assert suggestion("FOCLA", ["brier", "focal"]) == " Did you mean 'focal'?"
    assert suggestion("focal-loss", ["brier", "mmce"]) == "" == suggestion(3, ["focal"])
    assert os.getcwd().endswith("here")
