# Copyright 2026 The hf_focal authors. Licensed under the Apache License, Version 2.0.
"""The Spaces of the metrics in a real browser: each app is started, filled in, and its answer read from the page."""

import importlib.util
import json
import os
import shutil
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request

import pytest
from conftest import ROOT

import hf_focal


pytestmark = pytest.mark.slow

FUNCTIONS = {
    "adaptive_ece": hf_focal.adaptive_calibration_error,
    "classwise_ece": hf_focal.classwise_calibration_error,
    "ece": hf_focal.expected_calibration_error,
    "mce": hf_focal.maximum_calibration_error,
    "multiclass_brier": hf_focal.brier_score,
    "nll": hf_focal.negative_log_likelihood,
}
PROBABILITIES = [[0.7, 0.2, 0.1], [0.25, 0.5, 0.25], [0.1, 0.1, 0.8], [0.4, 0.35, 0.25], [0.05, 0.9, 0.05]]
LABELS = [0, 2, 2, 1, 1]
FLAGS = ["--headless=new", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-sync"]
FLAGS += ["--disable-background-networking", "--disable-component-update", "--window-size=1200,1600"]
FLAGS += ["--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE 127.0.0.1"]  # the page must do without a network


@pytest.fixture(scope="module")
def browser(tmp_path_factory):
    for name in ("gradio", "selenium"):
        if importlib.util.find_spec(name) is None:
            pytest.skip(f"{name} is not installed: pip install '.[spaces]'")
    program, driver = shutil.which("chromium"), shutil.which("chromedriver")
    if program is None or driver is None:
        pytest.skip("no chromium and chromedriver on the path: apt-get install chromium chromium-driver")
    from selenium import webdriver

    options = webdriver.ChromeOptions()
    options.binary_location = program
    for flag in [*FLAGS, f"--user-data-dir={tmp_path_factory.mktemp('profile')}"]:
        options.add_argument(flag)
    with webdriver.Chrome(options=options, service=webdriver.ChromeService(driver)) as opened:
        yield opened


@pytest.fixture
def space(request, tmp_path):
    """The address of a metric's app, started as a Space does: a folder called `app`, and `python app.py`."""
    shutil.copytree(ROOT / "metrics" / request.param, tmp_path / "app")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "GRADIO_ANALYTICS_ENABLED": "False", "HF_HUB_OFFLINE": "1"}
    environment |= {"GRADIO_SERVER_NAME": "127.0.0.1", "GRADIO_SERVER_PORT": str(port), "HF_HOME": str(tmp_path)}
    with (tmp_path / "log").open("w") as log:
        job = subprocess.Popen(
            [sys.executable, "app.py"], stdout=log, stderr=log, cwd=tmp_path / "app", env=environment
        )
        try:
            yield wait_for(f"http://127.0.0.1:{port}/", job, tmp_path / "log")
        finally:
            job.terminate()
            job.wait(timeout=30)


def wait_for(address, job, log, seconds=120):
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        assert job.poll() is None, log.read_text()
        try:
            with urllib.request.urlopen(address, timeout=5):
                return address
        except (urllib.error.URLError, TimeoutError):
            time.sleep(0.5)
    raise AssertionError(f"{address} did not answer within {seconds} s: {log.read_text()}")


@pytest.mark.parametrize(("space", "name"), [(name, name) for name in FUNCTIONS], indirect=["space"], ids=[*FUNCTIONS])
def test_a_visitor_fills_in_an_example_and_reads_the_value(browser, space, name):
    from selenium.webdriver.common.by import By
    from selenium.webdriver.support.ui import WebDriverWait

    def boxes():
        return browser.find_elements(By.CSS_SELECTOR, "textarea")

    def text():
        return browser.find_element(By.TAG_NAME, "body").text

    def article():
        cards = (card.text for card in browser.find_elements(By.CSS_SELECTOR, ".prose"))
        return next((card for card in cards if "Metric Description" in card), "$")

    def submit(*values):
        for box, value in zip(boxes(), values, strict=False):
            box.clear()
            box.send_keys(json.dumps(value))
        browser.find_element(By.XPATH, "//button[normalize-space()='Submit']").click()

    browser.get(space)
    wait = WebDriverWait(browser, 60)
    wait.until(lambda _: len(boxes()) == 3)
    assert name in browser.title
    # The card is shown, and its formulas are set, those within a line too.
    wait.until(lambda _: browser.find_elements(By.CSS_SELECTOR, ".katex") and "$" not in article())
    submit(PROBABILITIES, LABELS)
    shown = wait.until(lambda _: boxes()[2].get_attribute("value"))
    if folder := os.environ.get("HF_FOCAL_SCREENSHOTS"):
        browser.save_screenshot(f"{folder}/{name}.png")
    (found,) = json.loads(shown.replace("'", '"')).items()
    assert found == (name, pytest.approx(FUNCTIONS[name](PROBABILITIES, LABELS), abs=1e-9))
    assert found[1] > 0

    submit(PROBABILITIES, [0, 2, 2, 1, 3])
    wait.until(lambda _: "labels must lie in [0, 2]" in text())
