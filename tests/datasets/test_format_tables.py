"""Folders of tables: one .csv per modality, and labels.csv."""

import numpy as np
import pytest

from topdown.datasets import DataError, load_splits
from topdown.datasets.prepare import prepare

TABLES = {
    "heart.csv": "id,rate,variability\na,1,2\nb,5,6\na,3,4\n",  # rows of a stand apart
    "motion.csv": "x,id\n0.5,a\n,b\n1e2,c\n1,a\n",
    "age.csv": "id,years\na,30\nc,50\n",
    "labels.csv": "id,split,score\na,train,0.5\nb,train,-1\nc,test,2\n",
}


@pytest.fixture
def folder(tmp_path):
    for name, text in TABLES.items():
        (tmp_path / name).write_text(text, encoding="utf-8")
    return tmp_path


def test_one_table_by_itself_is_refused_with_the_folder_to_name(folder):
    with pytest.raises(DataError) as caught:
        load_splits(folder / "heart.csv")
    assert str(caught.value) == f"{folder / 'heart.csv'}: is one table; give the folder that holds all of them, {folder}"


def test_tables_are_read(folder):
    splits = load_splits(folder)
    assert {split: data.ids for split, data in splits.items()} == {"train": ["a", "b"], "test": ["c"]}
    train, test = splits["train"], splits["test"]
    assert train.sizes == {"heart": 2, "motion": 1, "age": 1}
    assert train[0].inputs["heart"].tolist() == [[1, 2], [3, 4]]
    assert train[0].inputs["motion"].tolist() == [[0.5], [1]]
    assert train[0].inputs["age"].tolist() == [30]
    assert train.labels.tolist() == [0.5, -1]
    assert train.lengths["age"].tolist() == [1, 0]  # a vector that b lacks
    assert test.lengths["heart"].tolist() == [0]
    assert test[0].inputs["motion"].tolist() == [[100]]
    assert train[1].inputs["motion"].tolist() == [[0]]  # an empty cell
    assert train.report["modalities"]["motion"]["replaced"]["nan"] == 1
    assert train.report["feature_names"] == {"heart": ["rate", "variability"], "motion": ["x"], "age": ["years"]}
    assert set(train.report["source"]["files"]) == set(TABLES)


def test_tables_become_stores(folder, tmp_path):
    stored = prepare(folder, tmp_path / "x.store")
    assert stored["train"].batch([0, 1]).lengths["age"].tolist() == [1, 0]


def test_new_data_has_no_labels_and_one_split(folder):
    (folder / "labels.csv").unlink()
    (data,) = load_splits(folder).values()
    assert (data.ids, data.labels) == (["a", "c", "b"], None)
    (folder / "labels.csv").write_text("id\nc\nb\na\n", encoding="utf-8")
    assert load_splits(folder)["all"].ids == ["c", "b", "a"]


@pytest.mark.parametrize(("column", "kind"), [("1\n0\n1", "i"), ("1.0\n0\n1", "f"), ("+1\n-2\n0", "i"), ("1e0\n0\n1", "f")])
def test_whole_numbers_are_classes(folder, column, kind):
    rows = zip("abc", column.split("\n"), strict=True)
    (folder / "labels.csv").write_text("id,y\n" + "".join(f"{i},{y}\n" for i, y in rows), encoding="utf-8")
    labels = load_splits(folder)["all"].labels
    assert labels.is_floating_point() == (kind == "f")
    (folder / "labels.csv").write_text("id,y,z\na,1,0\nb,0,0\nc,1,1\n", encoding="utf-8")
    assert load_splits(folder)["all"].labels.tolist() == [[1, 0], [0, 0], [1, 1]]


def test_a_table_without_rows_is_a_modality_that_all_lack(folder):
    (folder / "heart.csv").write_text("id,rate\n", encoding="utf-8")
    train = load_splits(folder)["train"]
    assert (train.sizes["heart"], train.lengths["heart"].tolist()) == (1, [0, 0])


def test_some_modalities(folder):
    assert load_splits(folder, modalities=["motion", "age"])["train"].sizes == {"motion": 1, "age": 1}


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("heart.csv", "id,rate\na,x\n", r"heart.csv, line 2: 'x' in column 'rate' is no number; give each feature as a number"),
        ("heart.csv", "name,rate\na,1\n", r"heart.csv: its first line must name its columns, once each, one of them 'id'"),
        ("heart.csv", "id,r,r\na,1,1\n", r"heart.csv: its first line must name its columns, once each"),
        ("heart.csv", "", r"heart.csv: its first line must name its columns"),
        ("heart.csv", "id\na\n", r"heart.csv: has no column beside 'id'"),
        ("heart.csv", "id,rate\na,1,2\n", r"heart.csv, line 2: has 3 cells, but there are 2 columns"),
        ("heart.csv", "id,rate\nz,1\n", r"heart.csv: 1 ids are not in labels.csv, such as 'z'"),
        ("labels.csv", "id,y\na,1\na,2\n", r"labels.csv: the id 'a' is there twice"),
        ("labels.csv", "id,y\na,happy\n", r"labels.csv, line 2: 'happy' in column 'y' is no number; give classes as 0, 1, 2"),
        ("labels.csv", "id,y\na,1\nb,\nc,1\n", r"labels.csv, line 3: a label is missing; leave out such samples \(1 here\)"),
        ("labels.csv", "id,split,y\na,train,1\nb,train,2\nc,train,3\nd,train,4\n", r"train: sample 3 has no"),
        ("heart.csv", b"id,\xff\na,1\n", r"heart.csv: cannot be read \(.*\); save it as comma-separated text in UTF-8"),
    ],
)
def test_what_does_not_fit_is_named(folder, name, text, message):
    (folder / name).write_bytes(text if isinstance(text, bytes) else text.encode())
    with pytest.raises(DataError, match=message):
        load_splits(folder)


def test_a_folder_of_labels_alone_and_of_another_modality(folder):
    with pytest.raises(DataError, match=r"has no video.csv; it has 'age', 'heart', 'motion'"):
        load_splits(folder, modalities=["video"])
    for name in TABLES.keys() - {"labels.csv"}:
        (folder / name).unlink()
    with pytest.raises(DataError, match=r"has no table of a modality beside labels.csv"):
        load_splits(folder)


def test_tables_that_numpy_wrote(tmp_path):
    rng = np.random.default_rng(0)
    values = rng.normal(size=(30, 4)).astype(np.float32)
    rows = np.column_stack([np.repeat(np.arange(10), 3), values])
    head = "id,a,b,c,d"
    np.savetxt(tmp_path / "x.csv", rows, delimiter=",", header=head, comments="", fmt=["%d", *["%.9g"] * 4])
    data = load_splits(tmp_path)["all"]
    assert np.array_equal(data.batch(range(10)).inputs["x"].reshape(30, 4).numpy(), values)
