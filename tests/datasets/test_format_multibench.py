"""MultiBench's HDF5 files."""

import layouts
import numpy as np
import pytest
from layouts import all_data, folds, same
from test_format_csd import edit, put

from topdown.datasets import DataError, load_splits

h5py = pytest.importorskip("h5py")


def test_multibench_may_have_words_alone(tmp_path):
    splits = all_data()
    layouts.multibench(tmp_path / "mosei.hdf5", splits)
    edit(tmp_path / "mosei.hdf5", lambda file: file.pop("glove_vectors") and None)
    loaded = load_splits(tmp_path / "mosei.hdf5", folds=folds(splits))
    assert list(loaded["train"].sizes) == ["audio", "visual"]
    loaded = load_splits(tmp_path / "mosei.hdf5", folds=folds(splits), embeddings={"word": [7.0]})
    assert loaded["valid"][0].inputs["text"].unique().tolist() == [7]
    assert loaded["valid"].report["source"]["layout"] == "MultiBench (HDF5)"


def test_segments_of_multibench_stand_in_the_order_of_their_numbers(tmp_path):
    splits = {split: data._replace(ids=[f"{split}[{i}]" for i in range(len(data.ids))]) for split, data in all_data().items()}
    layouts.multibench(tmp_path / "x.hdf5", splits)  # HDF5 sorts [10] before [2]
    same(load_splits(tmp_path / "x.hdf5", folds={split: [split] for split in splits}), splits)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda file: file.pop("All Labels") and None, "has no group of labels among"),
        (lambda file: file.pop("COVAREP") and None, "no group is 'audio' among"),
        (put("COVAREP/train0[0]/features", np.ones((2, 9))), "COVAREP: has 2 numbers of features"),
        (put("All Labels/train0[1]/features", [[3.5]]), r"train: 'All Labels'\[1\] is 3.5, outside"),
        (put("All Labels/train0[1]/features", np.ones((0, 7))), r"All Labels: train0\[1\]: its label is empty"),
        (put("All Labels/train0[1]", 1.0), r"train0\[1\]: is not a group"),
        (put("COVAREP/train0[1]", h5py.ExternalLink("x", "y")), r"'train0\[1\]' is a link to another place"),
        (put("words", 1.0), "'words' is not a group"),
    ],
)
def test_wrong_files_of_multibench_are_named(tmp_path, change, message):
    layouts.multibench(tmp_path / "x.hdf5", all_data())
    edit(tmp_path / "x.hdf5", change)
    with pytest.raises(DataError, match=message):
        load_splits(tmp_path / "x.hdf5", folds=folds(all_data()))


def test_a_segment_that_a_group_lacks_is_missing_and_counted(tmp_path):
    layouts.multibench(tmp_path / "x.hdf5", all_data())
    edit(tmp_path / "x.hdf5", lambda file: file["COVAREP"].pop("train0[1]") and None)
    data = load_splits(tmp_path / "x.hdf5", folds=folds(all_data()))["train"]
    assert data.lengths["audio"][1] == 0
    assert data.report["modalities"]["audio"]["absent_samples"] == 1
