"""scikit-learn's handwritten digits: 1797 real pictures of 8 x 8 that need no download."""

import numpy as np

from vit_lightning.data.draws import hold_out
from vit_lightning.data.pictures import ArrayPictures
from vit_lightning.data.splits import Splits, count_notes


def open_digits(seed: int) -> Splits:
    """Open the digits; a fifth of every class is held out, chosen by ``seed``."""
    from sklearn.datasets import load_digits  # takes a second to import

    bunch = load_digits()
    pixels = np.round(bunch.images * (255 / 16)).astype(np.uint8)  # grey levels 0..16
    everything = ArrayPictures(pixels, bunch.target.astype(np.int64), "digits")
    kept, held = hold_out(everything.labels, 0.2, seed)
    train, val = everything.subset(kept), everything.subset(held)
    classes = tuple(str(name) for name in bunch.target_names)
    notes = count_notes(classes, train=train, val=val)
    notes.append(f"held out for val: a fifth of every class, chosen by seed {seed}")
    return Splits(classes, train, val, None, tuple(notes))
