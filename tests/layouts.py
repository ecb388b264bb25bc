"""Writers of every layout that people hold, to the letter of what is known about them."""

import io
import json
import pickle
from typing import NamedTuple

import numpy as np
import torch

from topdown.datasets import load_splits

SIZES = {"text": 6, "audio": 4, "visual": 3}
SPLITS = {"train": 12, "valid": 6, "test": 7}
KEYS = {"text": "text", "audio": "audio", "visual": "vision"}  # in MulT's and MMSA's files


class Data(NamedTuple):
    """Samples without padding: arrays (T_i, D) per modality, labels, and ids of the form video[segment]."""

    inputs: dict
    labels: np.ndarray
    ids: list


def random_data(split, count=None, *, seed=0, aligned=True, longest=8, sizes=SIZES):
    """Values are whole eighths, and not 0: exact in float16, and in averages."""
    generator = np.random.default_rng([seed, *split.encode()])
    count = SPLITS[split] if count is None else count
    steps = generator.integers(1, longest + 1, count)
    inputs = {}
    for name, size in sizes.items():
        own = steps if aligned else generator.integers(1, longest + 3, count)
        inputs[name] = [generator.integers(1, 64, (n, size)) / 8 * generator.choice([-1, 1], (n, size)) for n in own]
    return Data(inputs, generator.integers(-9, 10, count) / 3, [f"{split}{i // 2}[{i % 2}]" for i in range(count)])


def all_data(**options):
    return {split: random_data(split, **options) for split in SPLITS}


def same(splits, expected, ids=True):
    """Checks that loaded splits hold exactly the samples that were written."""
    assert list(splits) == list(expected)
    for split, data in expected.items():
        loaded = splits[split]
        np.testing.assert_array_equal(loaded.labels.numpy(), data.labels.astype(np.float32))
        if ids:
            assert loaded.ids == data.ids
        assert list(loaded.sizes) == list(data.inputs)
        for i, sample in enumerate(loaded):
            for name, arrays in data.inputs.items():
                assert sample.inputs[name].dtype == torch.float32
                np.testing.assert_array_equal(
                    sample.inputs[name].numpy(), arrays[i].astype(np.float32), err_msg=f"{split} {name} {i}"
                )


def pad(arrays, side="right", steps=None, dtype=np.float64):
    steps = max(map(len, arrays)) if steps is None else steps
    padded = np.zeros((len(arrays), steps, arrays[0].shape[1]), dtype)
    for row, array in zip(padded, arrays, strict=True):
        row[steps - len(array) :] = array if side == "left" else 0
        if side == "right":
            row[: len(array)] = array
    return padded


def save(path, content, protocol=4):
    path.write_bytes(pickle.dumps(content, protocol=protocol))


def mult(splits, *, side="left", unaligned=False, extra=0):
    """Text float32, audio and vision float64; labels (N, 1, 1); ids as bytes (N, 3)."""
    content = {}
    longest = max(len(array) for data in splits.values() for arrays in data.inputs.values() for array in arrays) + extra
    for split, data in splits.items():
        part = {}
        for i, (name, arrays) in enumerate(data.inputs.items()):
            part[KEYS[name]] = pad(arrays, side, longest + i * unaligned, np.float32 if name == "text" else np.float64)
        part["labels"] = data.labels.reshape(-1, 1, 1)
        part["id"] = np.array([[name.encode(), b"0.0", b"1.5"] for name in data.ids], "S13")
        content[split] = part
    return content


def mult_file(path, change=None, *, protocol=4, unaligned=False, **options):
    """Writes a MulT pickle of random samples, after a change of its content, and returns the content."""
    content = mult(all_data(aligned=not unaligned, **options), unaligned=unaligned)
    if change is not None:
        content = change(content) or content
    save(path, content, protocol)
    return content


def mmsa(splits, *, side="right", unaligned=False, steps=None, tensors=False, bert=True, hints=True, dtype=np.float32):
    """Features of text for every piece, [CLS] and [SEP] included, which are rows of zeros in aligned audio and vision."""
    content = {}
    longest = max(len(array) for data in splits.values() for arrays in data.inputs.values() for array in arrays) + 1
    for split, data in splits.items():
        count = len(data.labels)
        part = {
            "raw_text": np.array([f"said {i}" for i in range(count)]),
            "id": np.array([i.replace("[", "$_$")[:-1] for i in data.ids]),
        }
        for i, (name, arrays) in enumerate(data.inputs.items()):
            part[KEYS[name]] = pad(arrays, side, (steps or longest) + i * unaligned, dtype)
        if bert:
            length = np.array([len(array) for array in data.inputs["text"]])
            mask = np.arange(steps or longest) < length[:, None]
            mask = mask[:, ::-1] if side == "left" else mask
            part["text_bert"] = np.stack([mask * 101, mask, mask * 0], 1).astype(np.float32)
        part["annotations"] = np.array(["Negative" if y < 0 else "Positive" if y > 0 else "Neutral" for y in data.labels])
        part["regression_labels"] = data.labels.astype(np.float32)
        part["classification_labels"] = np.sign(data.labels) + 1
        if hints:
            for name in ("audio", "visual"):
                part[f"{KEYS[name]}_lengths"] = [len(array) for array in data.inputs[name]]
        content[split] = {
            k: torch.from_numpy(v) if tensors and v.dtype.kind == "f" else v for k, v in part.items() if not isinstance(v, list)
        }
        content[split] |= {k: v for k, v in part.items() if isinstance(v, list)}
    return content


def with_pieces(splits):
    """Gives aligned samples the rows of zeros that [CLS] and [SEP] have in audio and vision."""
    result = {}
    for split, data in splits.items():
        inputs = {"text": data.inputs["text"]}
        for name in ("audio", "visual"):
            inputs[name] = [
                array * (np.arange(len(array)) % max(len(array) - 1, 1) > 0)[:, None] for array in data.inputs[name]
            ]
        result[split] = data._replace(inputs=inputs)
    return result


def mag_bert(splits):
    content = {}
    for split, data in splits.items():
        rows = zip(*[data.inputs[name] for name in ("text", "visual", "audio")], data.labels, data.ids, strict=True)
        content[{"valid": "dev"}.get(split, split)] = [
            ((text, visual, audio), np.array([[y]]), name) for text, visual, audio, y, name in rows
        ]
    return content


def cache(splits):
    content = []
    for data in splits.values():
        part = []
        for i, name in enumerate(data.ids):
            video, _, segment = name[:-1].partition("[")
            label = np.array([[data.labels[i], 0, 0, 0, 0, 0, 1.0]])
            part.append(
                {k: arrays[i] for k, arrays in data.inputs.items()}
                | {"video_id": video, "segment_id": int(segment), "label": label}
            )
        content.append(part)
    return (*content, {"<pad>": 0, "hello": 1, "world": 2})


def folds(splits):
    return {split: sorted({name.partition("[")[0] for name in data.ids}) for split, data in splits.items()}


def multibench(path, splits, names=None):
    import h5py

    names = names or {"text": "glove_vectors", "audio": "COVAREP", "visual": "FACET 4.2"}
    with h5py.File(path, "w") as file:
        for data in splits.values():
            for i, segment in enumerate(data.ids):
                for name, arrays in data.inputs.items():
                    file[f"{names[name]}/{segment}/features"] = arrays[i]
                file[f"words/{segment}/features"] = np.array([[b"word"]] * len(data.inputs["text"][i]), dtype="S32")
                file[f"All Labels/{segment}/features"] = [[data.labels[i], 0, 0, 0, 0, 0, 1.0]]


STREAMS = {
    "text": ("CMU_MOSEI_TimestampedWordVectors.csd", "glove_vectors"),
    "audio": ("CMU_MOSEI_COVAREP.csd", "COAVAREP"),
    "visual": ("CMU_MOSEI_VisualFacet42.csd", "FACET 4.2"),
}


def csd(folder, splits, *, change=None, seed=0):
    """Words of half a second, frames of a tenth or less that average to the word's features, everything in any order."""
    generator = np.random.default_rng(seed)
    tables = {name: {} for name in (*STREAMS, "words", "labels")}
    for data in splits.values():
        clock = {}
        for i, name in enumerate(data.ids):
            video = name.partition("[")[0]
            start = clock.get(video, 1.0)
            steps = len(data.inputs["text"][i])
            for t in range(steps):
                begin = start + t / 2
                tables["words"].setdefault(video, []).append(([f"word{t}".encode()], (begin, begin + 0.5)))
                tables["text"].setdefault(video, []).append((data.inputs["text"][i][t], (begin, begin + 0.5)))
                for modality, frames in (("audio", 5), ("visual", 2)):
                    for frame in range(frames):
                        noise = 0.5 * (frame - (frames - 1) / 2)  # sums to 0, exactly
                        span = (begin + 0.5 * frame / frames, begin + 0.5 * (frame + 1) / frames)
                        tables[modality].setdefault(video, []).append((data.inputs[modality][i][t] + noise, span))
            label = [data.labels[i], 0, 0, 0, 0, 0, 1.0]
            tables["labels"].setdefault(video, []).append((label, (start, start + steps / 2)))
            clock[video] = start + steps / 2 + 0.25
    for name, videos in tables.items():
        for video, rows in videos.items():
            order = np.arange(len(rows)) if name == "labels" else generator.permutation(len(rows))
            videos[video] = [rows[j] for j in order]
    if change is not None:
        change(tables)
    files = {**STREAMS, "words": ("CMU_MOSEI_TimestampedWords.csd", "words"), "labels": ("CMU_MOSEI_Labels.csd", "All Labels")}
    folder.mkdir(exist_ok=True)
    for name, (file_name, root) in files.items():
        if tables[name]:
            write_csd(folder / file_name, root, tables[name])


def write_csd(path, root, videos):
    import h5py

    with h5py.File(path, "w") as file:
        for video, rows in videos.items():
            features = np.array([row for row, _ in rows])
            kind = "S32" if features.dtype.kind == "S" else np.float64
            group = file.create_group(f"{root}/data/{video}")
            group.create_dataset("features", data=features.astype(kind), compression="gzip", compression_opts=9)
            group.create_dataset("intervals", data=np.array([span for _, span in rows], np.float64), compression="gzip")
        metadata = file.create_group(f"{root}/metadata")
        metadata.create_dataset("root name", (1,), h5py.string_dtype())[0] = json.dumps(root)


def npz(splits, flat=False, compress=False):
    arrays = {}
    for split, data in splits.items():
        for name, sequences in data.inputs.items():
            arrays[f"{split}.{name}"] = np.concatenate(sequences) if flat else pad(sequences)
            arrays[f"{split}.{name}.lengths"] = np.array([len(sequence) for sequence in sequences])
        arrays[f"{split}.labels"] = data.labels
        arrays[f"{split}.ids"] = np.array(data.ids)
    buffer = io.BytesIO()
    (np.savez_compressed if compress else np.savez)(buffer, **arrays)
    return buffer.getvalue()


GLOVE = "hello 1 2 3\nworld 4 5 6\nword0 .5 0 1\nword1 2 2 2\n. . . 7 8 9\n"


def with_id_parts(splits):
    return {split: data._replace(ids=[f"{i}|0.0|1.5" for i in data.ids]) for split, data in splits.items()}


def with_dollars(splits):
    return {split: data._replace(ids=[i.replace("[", "$_$")[:-1] for i in data.ids]) for split, data in splits.items()}


def set_split(key, value):
    return lambda content: content["valid"].update({key: value(content["valid"].get(key))})


def with_words(splits):
    """Puts words in the place of the features of text."""
    words = [["hello", "world"], ["World", "unheard"], ["."]]
    return {s: d._replace(inputs={**d.inputs, "text": [words[i % 3] for i in range(len(d.ids))]}) for s, d in splits.items()}


def load_content(path, content, **options):
    save(path, content)
    return load_splits(path, **options)


def changed(**keys):
    content = mult(all_data())
    content["train"].update(keys)
    return content
