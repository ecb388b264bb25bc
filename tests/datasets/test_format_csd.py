"""Folders of computational sequences: alignment to words, folds, and what is wrong with a file."""

import json

import layouts
import numpy as np
import pytest
from layouts import STREAMS, all_data, csd, folds, same, write_csd

from topdown.datasets import DataError, load_splits
from topdown.datasets.formats.csd import read
from topdown.datasets.formats.source import Options, Source

h5py = pytest.importorskip("h5py")


ONE = {"train": ["a"], "valid": ["b"], "test": ["c"]}


def small(folder, words, audio, segments=((1.0, 9.0),), label=1.0, spoken=True):
    """Three videos of one segment each: words and frames are (value, start, end)."""
    folder.mkdir()
    videos = "abc"
    if spoken:
        write_csd(
            folder / "w.csd",
            "words",
            {v: [([b"sp" if value is None else b"w"], span) for value, *span in words] for v in videos},
        )
    write_csd(folder / "t.csd", "glove_vectors", {v: [([value or 0.5], span) for value, *span in words] for v in videos})
    write_csd(folder / "c.csd", "COVAREP", {v: [([value, 1.0], span) for value, *span in audio] for v in videos})
    write_csd(folder / "l.csd", "Opinion Segment Labels", {v: [([label], span) for span in segments] for v in videos})
    return load_splits(folder, folds=ONE, modalities=["text", "audio"])


def test_features_are_averaged_over_each_word(tmp_path):
    words = [(2.0, 3.0, 4.0), (1.0, 1.0, 2.5), (None, 2.5, 3.0), (9.0, 5.0, 5.000001)]  # the last is too short to be a word
    frames = [(10.0, 1.0, 1.5), (20.0, 1.5, 2.0), (60.0, 2.4, 2.6), (7.0, 3.999995, 4.5), (99.0, 8.0, 9.0)]
    data = small(tmp_path / "x", words, frames)["train"]
    assert data.ids == ["a[0]"]
    assert data[0].inputs["text"].tolist() == [[1.0], [0.5], [2.0]]  # in the order of time, the pause "sp" too
    # (10 + 20 + 60) / 3; 60 overlaps the pause too; an overlap of 5e-6 s does not count, so the third word has no frames
    assert data[0].inputs["audio"].tolist() == [[30.0, 1.0], [60.0, 1.0], [0.0, 0.0]]
    found = data.report["modalities"]["audio"]
    assert found["words_without_frames"] == 1
    assert (found["from"], found["lengths_from"], found["dtype"]) == ("c.csd", "the words", "float64")


def test_what_is_not_finite_is_left_out_of_averages(tmp_path):
    frames = [(-np.inf, 1.0, 1.5), (4.0, 1.5, 2.0), (np.nan, 2.0, 2.5), (np.inf, 3.0, 3.5)]
    data = small(tmp_path / "x", [(1.0, 1.0, 2.5), (1.0, 3.0, 3.5)], frames)["train"]
    assert data[0].inputs["audio"].tolist() == [[4.0, 1.0], [0.0, 1.0]]
    assert data.report["modalities"]["audio"]["frame_values_ignored"] == {"nan": 1, "+inf": 1, "-inf": 1, "beyond float32": 0}


def test_segments_are_numbered_as_they_stand(tmp_path):
    # Intervals of All Labels/data/zv0Jl4TIQDc, out of order.
    spans = [(56.852, 60.845), (29.764, 35.633), (42.146, 49.242)]
    words = [(float(i), start, start + 1.0) for i, (start, _) in enumerate(spans)] + [(8.0, 36.0, 37.0)]
    data = small(tmp_path / "x", words, [(1.0, 0.0, 99.0)], spans)["train"]
    assert data.ids == ["a[0]", "a[1]", "a[2]"]
    assert [sample.inputs["text"].flatten().tolist() for sample in data] == [[0.5], [1.0], [2.0]]


def test_a_segment_without_words_gets_a_step_of_zeros(tmp_path):
    data = small(tmp_path / "x", [(1.0, 1.0, 2.0)], [(1.0, 1.0, 2.0)], [(1.0, 2.0), (5.0, 5.0)])["train"]
    assert data[1].inputs["audio"].tolist() == [[0, 0]]
    assert data.report["segments_without_words"] == 1


def test_without_a_file_of_words_their_vectors_say_when_they_are(tmp_path):
    data = small(tmp_path / "x", [(2.0, 3.0, 4.0), (1.0, 1.0, 2.5)], [(5.0, 1.0, 1.5)], spoken=False)["train"]
    assert data[0].inputs["text"].tolist() == [[1.0], [2.0]]
    assert data[0].inputs["audio"].tolist() == [[5, 1], [0, 0]]


def test_words_may_get_vectors_of_ones_own(tmp_path):
    csd(tmp_path / "x", all_data())
    (tmp_path / "x" / STREAMS["text"][0]).unlink()
    splits = load_splits(tmp_path / "x", folds=folds(all_data()))
    assert list(splits["train"].sizes) == ["audio", "visual"]
    assert list(splits["train"].report["left_out"]) == ["text"]
    text = load_splits(tmp_path / "x", folds=folds(all_data()), embeddings={"word0": [1.0], "word1": [2.0]})["train"]
    steps = [len(array) for array in all_data()["train"].inputs["text"]]
    assert [s.inputs["text"].flatten().tolist() for s in text] == [[1.0, 2.0, *[0.0] * 8][:n] for n in steps]
    assert text.report["modalities"]["text"]["unknown_words"] == sum(max(0, n - 2) for n in steps)


def test_a_video_that_a_stream_lacks_gets_zeros_and_is_counted(tmp_path):
    def lose(tables):  # as 4kF0U8kIMp4 lacks features
        del tables["audio"]["train0"]

    csd(tmp_path / "x", all_data(), change=lose)
    data = load_splits(tmp_path / "x", folds=folds(all_data()))["train"]
    assert data[0].inputs["audio"].abs().sum() == data[1].inputs["audio"].abs().sum() == 0
    assert data[2].inputs["audio"].abs().sum() > 0
    assert data.report["modalities"]["audio"]["absent_videos"] == 1
    assert data.report["modalities"]["audio"]["all_zero_samples"] == 2


def test_videos_of_no_fold_are_left_out_and_counted(tmp_path):
    splits = all_data()
    csd(tmp_path / "x", splits)
    some = folds(splits)
    some["train"] = [*some["train"][1:], "elsewhere"]
    loaded = load_splits(tmp_path / "x", folds=some)
    assert loaded["train"].ids == splits["train"].ids[2:]
    assert loaded["test"].report["segments_in_no_fold"] == 2
    assert loaded["test"].report["videos_without_segments"] == ["elsewhere"]


def test_folds_may_be_files(tmp_path):
    splits = all_data()
    csd(tmp_path / "x", splits)
    wanted = folds(splits)
    (tmp_path / "folds.json").write_text(json.dumps({"dev" if k == "valid" else k: v for k, v in wanted.items()}))
    code = "\n".join(f"standard_{split}_fold={videos!r}" for split, videos in wanted.items())
    (tmp_path / "cmu_mosei_std_folds.py").write_text(f"# The folds\n{code}\nraise SystemExit('this is never run')\n")
    for name in ("folds.json", "cmu_mosei_std_folds.py"):
        same(load_splits(tmp_path / "x", folds=tmp_path / name), splits)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("[1, 2]", "holds no folds"),
        ("import os", "holds no folds"),
        ("standard_train_fold = open('x')", "holds no folds"),
        ('{"train": ["a"], "valid": ["b"]}', "has no list of video ids for 'test'"),
        ('{"train": ["a"], "valid": ["a"], "test": ["c"]}', "video 'a' is in train and in valid"),
        ('{"train": [1], "valid": ["a"], "test": ["c"]}', "has no list of video ids for 'train'"),
    ],
)
def test_wrong_folds_are_named(tmp_path, content, message):
    csd(tmp_path / "x", all_data())
    (tmp_path / "folds").write_text(content)
    with pytest.raises(DataError, match=message):
        load_splits(tmp_path / "x", folds=tmp_path / "folds")
    with pytest.raises(DataError, match="does not say which videos are for training; give folds="):
        load_splits(tmp_path / "x")
    with pytest.raises(DataError, match="nowhere: cannot be read"):
        load_splits(tmp_path / "x", folds=tmp_path / "nowhere")


def test_several_files_of_one_modality_are_asked_about(tmp_path):
    splits = all_data()
    csd(tmp_path / "x", splits)
    again = tmp_path / "x" / "CMU_MOSEI_TimestampedGloveVectors_with_SP.csd"
    again.write_bytes((tmp_path / "x" / STREAMS["text"][0]).read_bytes())
    # Others of audio and visual are there, too; COVAREP and FACET 4.2, those of the paper, come first.
    for name, root in (("CMU_MOSEI_VisualOpenFace2.csd", "OpenFace_2"), ("CMU_MOSI_openSMILE_IS09.csd", "OpenSMILE")):
        write_csd(tmp_path / "x" / name, root, {"train0": [([1.0], (0.0, 1.0))]})
    with pytest.raises(DataError, match=r"could all be 'text'; name one with streams=\{'text': ...\}"):
        load_splits(tmp_path / "x", folds=folds(splits))
    loaded = load_splits(tmp_path / "x", folds=folds(splits), streams={"text": again.name})
    same(loaded, splits)
    assert loaded["train"].report["modalities"]["text"]["from"] == again.name
    assert set(loaded["train"].report["source"]["files"]) == {
        again.name,
        STREAMS["audio"][0],
        STREAMS["visual"][0],
        "CMU_MOSEI_TimestampedWords.csd",
        "CMU_MOSEI_Labels.csd",
    }
    with pytest.raises(DataError, match=r"has no 'nowhere\.csd' for 'audio'"):
        load_splits(tmp_path / "x", folds=folds(splits), streams={"text": again.name, "audio": "nowhere.csd"})


def test_labels_out_of_range_are_named(tmp_path):
    def scale(tables):  # as an old release of MOSEI was
        tables["labels"]["train2"][1][0][0] = 5.0

    csd(tmp_path / "x", all_data(), change=scale)
    with pytest.raises(DataError, match=r"train: CMU_MOSEI_Labels.csd: label of train2\[1\], labels\[5\] is 5, outside"):
        load_splits(tmp_path / "x", folds=folds(all_data()))


def edit(path, change):
    with h5py.File(path, "a") as file:
        change(file)


def put(name, value):
    def change(file):
        del file[name]
        file[name] = value

    return change


AUDIO = "COAVAREP/data/train0"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (put(f"{AUDIO}/intervals", np.ones((1, 2))), r"train0: has \d+ features but intervals of shape \(1, 2\)"),
        (put(f"{AUDIO}/intervals", np.full((1, 2), np.nan)), r"train0: has \d+ features but intervals"),
        (put(f"{AUDIO}/features", np.ones((3, 43))), "has 2 numbers of features, .*43.*"),
        (put(f"{AUDIO}/features", 1.0), r"train0: 'features' is float64 of shape \(\); expected an array of numbers"),
        (put(f"{AUDIO}/features", np.array([[b"x"]])), "train0: 'features' is .S1 of shape"),
        (put("COAVAREP/data", 1.0), "COAVAREP.*is not a group"),
        (put("COAVAREP", 1.0), "is not a group"),
        (lambda file: file.pop("COAVAREP") and None, "CMU_MOSEI_COVAREP.csd: is empty"),
        (lambda file: file[AUDIO].pop("intervals") and None, "train0: has no 'intervals'"),
    ],
)
def test_wrong_sequences_are_named(tmp_path, change, message):
    csd(tmp_path / "x", all_data())
    edit(tmp_path / "x" / STREAMS["audio"][0], change)
    with pytest.raises(DataError, match=message):
        load_splits(tmp_path / "x", folds=folds(all_data()))


def test_missing_sequences_are_named(tmp_path):
    csd(tmp_path / "x", all_data())
    (tmp_path / "x" / STREAMS["visual"][0]).unlink()
    with pytest.raises(DataError, match="no file is 'visual' among"):
        load_splits(tmp_path / "x", folds=folds(all_data()))
    (tmp_path / "x" / "CMU_MOSEI_Labels.csd").unlink()
    with pytest.raises(DataError, match="has no file of labels among"):
        load_splits(tmp_path / "x", folds=folds(all_data()))
    with pytest.raises(DataError, match="is one computational sequence; give the folder"):
        load_splits(tmp_path / "x" / STREAMS["audio"][0])


def outside(tmp_path, kind):
    """Replaces the features of a video by a link to, or an array in, another file."""
    with h5py.File(tmp_path / "other.h5", "w") as other:
        other["secret"] = np.ones((3, 4))

    def change(file):
        del file[f"{AUDIO}/features"]
        if kind == "external link":
            file[f"{AUDIO}/features"] = h5py.ExternalLink(str(tmp_path / "other.h5"), "secret")
        elif kind == "soft link":
            file[f"{AUDIO}/features"] = h5py.SoftLink(f"/{AUDIO}/intervals")
        elif kind == "external data":
            (tmp_path / "raw").write_bytes(b"\0" * 96)
            file[AUDIO].create_dataset("features", (3, 4), "f8", external=[(str(tmp_path / "raw"), 0, 96)])
        else:
            layout = h5py.VirtualLayout((3, 4), "f8")
            layout[:] = h5py.VirtualSource(str(tmp_path / "other.h5"), "secret", (3, 4))
            file[AUDIO].create_virtual_dataset("features", layout)

    return change


@pytest.mark.parametrize("kind", ["external link", "soft link", "external data", "virtual data"])
def test_nothing_leads_out_of_a_file(tmp_path, kind):
    csd(tmp_path / "x", all_data())
    edit(tmp_path / "x" / STREAMS["audio"][0], outside(tmp_path, kind))
    with pytest.raises(DataError, match=r"train0: 'features' (is a link to another place|lies in another file)"):
        load_splits(tmp_path / "x", folds=folds(all_data()))


def test_sizes_that_are_only_declared_are_not_allocated(tmp_path):
    def declare(file):
        del file[f"{AUDIO}/features"]
        file[AUDIO].create_dataset("features", (10**9, 4), "f8", chunks=(1000, 4), compression="gzip")

    csd(tmp_path / "x", all_data())
    edit(tmp_path / "x" / STREAMS["audio"][0], declare)
    with pytest.raises(DataError, match="'features' declares 32000000000 bytes, but holds 0"):
        load_splits(tmp_path / "x", folds=folds(all_data()))


def test_features_are_read_one_video_at_a_time(tmp_path, monkeypatch):
    csd(tmp_path / "x", all_data())
    splits = read(Source(tmp_path / "x", Options(("audio",), folds(all_data())))).splits
    arrays = iter(splits["train"].streams["audio"].arrays)
    next(arrays)
    from topdown.datasets.formats import csd as module

    taken = []
    original = module.read_array
    monkeypatch.setattr(module, "read_array", lambda group, name, where: taken.append(where) or original(group, name, where))
    next(arrays)  # of the same video
    assert taken == []
    next(arrays)
    assert [where.rpartition(" ")[2] for where in taken] == ["train1", "train1"]


def test_damaged_hdf5_is_an_error(tmp_path):
    layouts.multibench(tmp_path / "x.hdf5", all_data())
    raw = (tmp_path / "x.hdf5").read_bytes()
    for length in (9, 100, 1000, len(raw) // 2, len(raw) - 1):
        (tmp_path / "x.hdf5").write_bytes(raw[:length])
        with pytest.raises(DataError, match="not an HDF5 file, or damaged"):
            load_splits(tmp_path / "x.hdf5", folds=folds(all_data()))


def test_frames_beyond_float32_are_left_out_of_averages(tmp_path):
    frames = [(np.nan_to_num(-np.inf), 1.0, 1.5), (4.0, 1.5, 2.0), (1e39, 3.0, 3.5)]
    data = small(tmp_path / "x", [(1.0, 1.0, 2.5), (1.0, 3.0, 3.5)], frames)["train"]
    assert data[0].inputs["audio"].tolist() == [[4.0, 1.0], [0.0, 1.0]]
    assert data.report["modalities"]["audio"]["frame_values_ignored"]["beyond float32"] == 2
    assert sum(data.report["modalities"]["audio"]["replaced"].values()) == 0


def test_intervals_in_float32_do_not_mix_neighbours(tmp_path):
    edges = np.cumsum(np.random.default_rng(0).uniform(0.1, 0.5, 21)) + 600
    words = [(float(i + 1), edges[i], edges[i + 1]) for i in range(20)]
    small(tmp_path / "x", words, [(1.0, 0.0, 9.0)], [(600.0, 700.0)])

    def rounded(file):
        for video in "abc":
            spans = file[f"glove_vectors/data/{video}/intervals"][()].astype(np.float32)
            del file[f"glove_vectors/data/{video}/intervals"]
            file[f"glove_vectors/data/{video}/intervals"] = spans

    edit(tmp_path / "x" / "t.csd", rounded)
    data = load_splits(tmp_path / "x", folds=ONE, modalities=["text"])["train"]
    assert data[0].inputs["text"].flatten().tolist() == list(range(1, 21))


def test_keys_of_streams_that_mean_nothing_are_named(tmp_path):
    csd(tmp_path / "x", all_data())
    with pytest.raises(DataError, match=r"streams name 'vision', but the modalities are \['text', 'audio', 'visual'\]"):
        load_splits(tmp_path / "x", folds=folds(all_data()), streams={"vision": STREAMS["visual"][0]})
    path = tmp_path / "x" / STREAMS["visual"][0]
    same(load_splits(tmp_path / "x", folds=folds(all_data()), streams={"visual": str(path)}), all_data())
    with pytest.raises(DataError, match="folds have both 'valid' and 'dev'"):
        load_splits(tmp_path / "x", folds={**folds(all_data()), "dev": ["x"]})
    with pytest.raises(DataError, match="folds are a int"):
        load_splits(tmp_path / "x", folds=5)


def test_other_files_of_a_folder_do_not_matter(tmp_path):
    csd(tmp_path / "x", all_data())
    (tmp_path / "x" / "._CMU_MOSEI_COVAREP.csd").write_bytes(b"of another system")
    (tmp_path / "x" / "notes.csd").write_bytes(b"no HDF5")
    loaded = load_splits(tmp_path / "x", folds=folds(all_data()))
    same(loaded, all_data())
    assert loaded["train"].report["files_not_used"] == ["notes.csd"]


@pytest.mark.parametrize("nothing", [np.zeros(0), np.zeros((0, 0)), np.zeros((0, 4))])
def test_a_video_without_features_counts_as_absent(tmp_path, nothing):
    csd(tmp_path / "x", all_data())
    edit(tmp_path / "x" / STREAMS["audio"][0], put(f"{AUDIO}/features", nothing))
    data = load_splits(tmp_path / "x", folds=folds(all_data()))["train"]
    assert data.report["modalities"]["audio"]["absent_videos"] == 1
    assert data[0].inputs["audio"].abs().sum() == 0


def test_a_stream_without_any_video_is_named(tmp_path):
    csd(tmp_path / "x", all_data(), change=lambda tables: tables.update(audio={"elsewhere": tables["audio"]["train0"]}))
    with pytest.raises(DataError, match=r"CMU_MOSEI_COVAREP\.csd: has none of the 6 videos of this split"):
        load_splits(tmp_path / "x", folds=folds(all_data()))


def test_segments_that_share_all_words_are_refused(tmp_path):
    with pytest.raises(DataError, match="each word is in more than ten segments"):
        small(tmp_path / "x", [(1.0, 1.0, 2.0)] * 500, [(1.0, 1.0, 2.0)], [(1.0, 2.0)] * 100)


def test_words_of_variable_length_are_refused(tmp_path):
    """Their heap may be damaged so that the HDF5 library never returns; files of MultiBench have fixed ones."""
    layouts.multibench(tmp_path / "x.hdf5", all_data())

    def variable(file):
        for group in ("words", "glove_vectors"):
            del file[group]
        for segment in file["COVAREP"]:
            file[f"words/{segment}/features"] = np.array([["hi"]], dtype=h5py.string_dtype())

    edit(tmp_path / "x.hdf5", variable)
    with pytest.raises(DataError, match=r"'features' is object of shape .*; expected an array of text"):
        load_splits(tmp_path / "x.hdf5", folds=folds(all_data()), embeddings={"hi": [1.0]})


def test_links_to_one_array_do_not_fill_the_memory(tmp_path):
    with h5py.File(tmp_path / "x.hdf5", "w") as file:
        file["All Labels/a[0]/features"] = np.zeros((1, 1))
        file.create_dataset("COVAREP/a[0]/features", data=np.ones((1000, 250), "f4"), compression="gzip")
        for video in "abc":
            for i in range(500):
                for group in ("All Labels", "COVAREP"):
                    if (video, i) != ("a", 0):
                        file[group][f"{video}[{i}]"] = file[group]["a[0]"]
    with pytest.raises(DataError, match=r"refused, since its \d+ bytes would become 1500000000; it repeats arrays"):
        load_splits(tmp_path / "x.hdf5", folds=ONE, modalities=["audio"])
