"""Package metadata of speechbrain_ext."""

from pathlib import Path

from setuptools import find_packages, setup

ROOT = Path(__file__).parent
VERSION = next(
    line.split('"')[1]
    for line in (ROOT / "speechbrain_ext/__init__.py").read_text().splitlines()
    if line.startswith("__version__")
)

EXTRAS = {
    # The embedded synthesiser; the package carries espeak-ng, which is GPL-3.
    "demo": ["espeakng-loader>=0.2"],
    # The published synthesiser, and the worked example of another one. (On
    # Python 3.10 they want different versions of NumPy.)
    "paper": ["f5-tts>=1.1.10,<1.2"],
    "kokoro": ["kokoro-onnx>=0.4,<0.7"],
    # Speaker encoders in ONNX files, and exports as such a file.
    "onnx": ["onnx>=1.15", "onnxruntime>=1.17"],
    # Files of vectors: .parquet and Kaldi's .ark.
    "vectors": ["pyarrow>=12", "kaldiio>=2.18"],
    # Audio and shards behind http://; S3 and others have drivers of their own.
    "http": ["aiohttp>=3"],
    "tensorboard": ["tensorboard"],
    "wandb": ["wandb"],
}
# Later versions of hypothesis look into all modules, also those that
# SpeechBrain only imports when they are used, and fails to.
EXTRAS["test"] = [
    "pytest>=7",
    "hypothesis>=6.90,<6.131",
    *EXTRAS["tensorboard"],
    *EXTRAS["wandb"],
    *EXTRAS["onnx"],
    *EXTRAS["vectors"],
    *EXTRAS["http"],
    "webdataset>=0.2",  # writes shards
    *EXTRAS["demo"],
]

setup(
    name="speechbrain-interventional",
    version=VERSION,
    description=(
        "Interventional post-training of speech foundation models: "
        "SpeechBrain recipes for speaker and content subspaces"
    ),
    long_description=(ROOT / "README.md").read_text(encoding="utf-8"),
    long_description_content_type="text/markdown",
    license="Apache-2.0",
    python_requires=">=3.10",
    # hparams, and the recipe that `interventional evaluate` calls.
    packages=find_packages(include=["speechbrain_ext", "speechbrain_ext.*"])
    + ["speechbrain_ext.hparams", "speechbrain_ext.post_training"],
    package_dir={
        "speechbrain_ext.hparams": "hparams",
        "speechbrain_ext.post_training": (
            "recipes/InterventionalTTS/post-training"
        ),
    },
    entry_points={
        "console_scripts": ["interventional = speechbrain_ext.cli:main"]
    },
    package_data={
        "speechbrain_ext.evaluation": ["page.html"],
        "speechbrain_ext.hparams": ["*/*.yaml"],
        "speechbrain_ext.models": ["*/*"],
        "speechbrain_ext.post_training": ["hparams/*.yaml"],
        "speechbrain_ext.synthesis": ["data/*"],
    },
    install_requires=[
        "speechbrain>=1.1",
        "torch>=2.1",
        # torch 2.15 for Linux is built for CUDA 13.2; torchaudio 2.11, the
        # newest, for 13.0, and it refuses to be imported beside another.
        'torch<2.15; sys_platform == "linux"',
        "torchaudio>=2.1",
        "hyperpyyaml>=1.2",
        "sentencepiece>=0.1.91",
        "transformers>=4.48",
        "huggingface_hub>=0.23",
        "jinja2>=3",
        "braceexpand>=0.1.7",
        "filelock>=3.12",
        "fsspec>=2023.5",
        "packaging",
        "pyyaml>=6",
        "soundfile>=0.12.1",
        "safetensors>=0.4",
        "scikit-learn>=1.3",
        "threadpoolctl>=3.1",
        "matplotlib>=3.9",
        "numpy>=1.24",
        "scipy>=1.10",
        "joblib>=1.2",
        "tabulate>=0.9",
        "tqdm>=4.42",
    ],
    extras_require=EXTRAS,
)
