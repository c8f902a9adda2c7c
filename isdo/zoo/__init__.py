"""Embedded models: small class-conditional diffusion models of emoji, one for each prediction type."""

import json
from pathlib import Path

import torch
from safetensors import safe_open

FOLDER = Path(__file__).parent


def load_trunk(name):
    """Return (state dict float32, metadata) of an embedded model."""
    with safe_open(FOLDER / f"{name}.safetensors", "pt") as file:
        return {key: file.get_tensor(key).float() for key in file.keys()}, file.metadata()
