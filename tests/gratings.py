"""Folders of drawn pictures: waves that run across or down, as files of several kinds and sizes."""

import numpy as np
from PIL import Image

ENDINGS = ("png", "jpg", "webp")


def picture(random, across, height, width):
    """Return a wave of any colour and phase as a PIL picture; mirrored it is of the same class."""
    y, x = np.mgrid[:height, :width] / min(height, width)
    wave = np.sin(2 * np.pi * (random.uniform(2, 3) * (x if across else y) + random.uniform()))
    pixels = (0.5 + 0.45 * wave)[..., None] * random.uniform(0.4, 1, 3)
    return Image.fromarray((255 * pixels).astype(np.uint8))


def write(folder, count=24, classes=("across", "down")):
    """Write ``count`` pictures a class into subfolders of their names; returns the folder."""
    random = np.random.default_rng(0)
    for k, name in enumerate(classes):
        (folder / name).mkdir(parents=True)
        for i in range(count):
            image = picture(random, k == 0, *random.integers(20, 48, 2))
            image.save(folder / name / f"{i}.{ENDINGS[i % len(ENDINGS)]}")
    return folder
