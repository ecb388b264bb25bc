"""Files in MulT's layout, to the letter of what is known about them."""

import pickle

import numpy as np

SIZES = {"text": 6, "audio": 4, "vision": 3}


def make_split(count, seed, *, steps=8, unaligned=False):
    """Zeros on the left; text float32, audio and vision float64; labels (N, 1, 1); ids as bytes (N, 3)."""
    generator = np.random.default_rng(seed)
    split = {}
    lengths = generator.integers(1, steps + 1, count)
    for i, (name, size) in enumerate(SIZES.items()):
        own = generator.integers(1, steps + 1 + 3 * i, count) if unaligned else lengths
        array = np.zeros((count, steps + 3 * i * unaligned, size))
        for sample, n in zip(array, own, strict=True):
            sample[-n:] = generator.normal(size=(n, size)) + 0.01
        split[name] = array.astype(np.float32) if name == "text" else array
    split["labels"] = generator.uniform(-3, 3, (count, 1, 1)).round(1)
    split["id"] = np.array([[f"video{i}".encode(), b"0.0", b"1.5"] for i in range(count)])
    return split


def make_file(path, change=None, *, protocol=4, **options):
    content = {name: make_split(count, i, **options) for i, (name, count) in enumerate(dict(train=12, valid=6, test=7).items())}
    if change is not None:
        content = change(content) or content
    path.write_bytes(pickle.dumps(content, protocol=protocol))
    return content
