"""A chest of two shapes: a cylinder of tissue with two air-filled lungs in it."""

from __future__ import annotations

import numpy as np

WIDTH = 96
OUTSIDE, TISSUE, LUNG = 0.0, 0.52, 0.1  # normalised CT: -1000, 40 and -800 HU


def chest(length: int = WIDTH // 2) -> np.ndarray:
    """Normalised CT of 2 mm, (96, 96, length); each lung measures 44 x 80 mm."""
    x, y, _ = np.indices((WIDTH, WIDTH, length)) - WIDTH / 2
    image = np.where((x / 44) ** 2 + (y / 36) ** 2 < 1, TISSUE, OUTSIDE)
    for side in (-24, 24):
        image[((x - side) / 11) ** 2 + (y / 20) ** 2 < 1] = LUNG
    return image.astype(np.float32)
