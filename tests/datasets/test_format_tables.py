"""Folders of tables: one .csv per modality, and labels.csv."""

import numpy as np
import pandas
import pytest

from topdown.datasets import DataError, SequenceDataset, load_splits
from topdown.datasets.prepare import prepare
from topdown.datasets.report import data_table

TABLES = {
    "heart.csv": "id,rate,variability\na,1,2\nb,5,6\na,3,4\n",  # rows of a are not contiguous
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
    remedy = f"give the folder that holds all of them, {folder}, or say which columns are a modality"
    assert str(caught.value).startswith(f"{folder / 'heart.csv'}: is one table; {remedy}")


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
    assert train[1].inputs["motion"].tolist() == [[0.75]]  # an empty cell gets the mean of 0.5 and 1, not that of 100 in test
    assert train.report["modalities"]["motion"]["replaced"]["nan"] == 0
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


def test_some_modalities(folder):
    assert load_splits(folder, modalities=["motion", "age"])["train"].sizes == {"motion": 1, "age": 1}


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("heart.csv", "id,rate\na,x\n", r"heart.csv, line 2: 'x' in column 'rate' is no number; give each feature as a number"),
        ("heart.csv", "name,rate\na,1\n", r"heart.csv: its first line must name its columns, once each, one of them 'id'"),
        ("heart.csv", "id,r,r\na,1,1\n", r"heart.csv: its first line must name its columns, once each"),
        ("heart.csv", "", r"heart.csv: is empty; its first line must name its columns"),
        ("heart.csv", "id,rate\n", r"heart.csv: has no rows; leave the table out"),
        ("heart.csv", ",id,rate\n0,a,1\n", r"heart.csv: column 1 has no name: it may be the index of pandas"),
        ("heart.csv", "id,rate\na,1\n,2\n", r"heart.csv, line 3: has no id \(1 such rows\); give each row the id"),
        ("heart.csv", "id,rate,x\na,1,2\nb,1\n", r"heart.csv, line 3: has 2 cells, but there are 3 columns"),
        ("heart.csv", 'id,rate\na,"1,000"\n', r"heart.csv, line 2: '1,000' in column 'rate' is no number"),
        ("heart.csv", "id,rate\n\na,1\n\nb,2024-01-01\n", r"heart.csv, line 5: '2024-01-01' in column 'rate' is no number"),
        ("labels.csv", "id,split,y\na,train,1\nb,,2\nc,test,3\n", r"labels.csv, line 3: has no split \(1 such rows\)"),
        ("heart.csv", "id\na\n", r"heart.csv: has no column beside 'id'"),
        ("heart.csv", "id,rate\na,1,2\n", r"heart.csv, line 2: has 3 cells, but there are 2 columns"),
        ("heart.csv", "id,rate\nz,1\n", r"heart.csv: 1 ids are not in labels.csv, such as 'z'"),
        ("labels.csv", "id,y\na,1\na,2\n", r"labels.csv: the id 'a' is there twice"),
        (
            "labels.csv",
            "id,y\na,1\nb,happy\nc,2\n",
            r"labels.csv, line 3: 'happy' in column 'y' is no number; give classes",
        ),
        (
            "labels.csv",
            "id,y,why\na,1,x\nb,2,y\nc,2,z\n",
            r"'x' in column 'why' is no number; name the one of 'y', 'why' that is the label",
        ),
        ("labels.csv", "id,y\na,\nb,\nc,\n", r"labels.csv: every label is missing; leave out the column, or the table"),
        (
            "labels.csv",
            "id,split,y\na,train,1\nb,train,2\nc,train,3\nd,train,4\n",
            r"labels.csv: 'd' has no rows in any table \(1 such ids\)",
        ),
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


HEART = [[1, 2], [3, 4]]  # of a


@pytest.mark.parametrize(
    ("name", "text", "note"),
    [
        ("heart.csv", "id;rate;x\na;1;2\nb;5;6\na;3;4\n", "heart.csv: separator ;"),
        ("heart.csv", "id;rate;x\na;1,0;2,0\nb;5,5;6\na;3;4\n", "heart.csv: decimal comma"),
        ("heart.tsv", "id\trate\tx\na\t1\t2\nb\t5\t6\na\t3\t4\n", "heart.tsv: separator tab"),
        ("heart.csv", "\ufeffID, rate ,x\r\na,1,2\r\nb,5,6\r\n a ,3,4\r\n", None),
        (
            "heart.csv",
            "id,rate,x\na,1,2\nb,NA,6\na,3,4\n",
            "heart.csv: 1 empty cells in 'rate', filled with the mean of the training samples",
        ),
        (
            "heart.csv",
            "id,rate,x\na,1,2\nb,null,nan\na,3,4\n",
            "heart.csv: 1 empty cells in 'x', filled with the mean of the training samples",
        ),
        (
            "heart.csv",
            "id,Fr\u00e9q,x\na,1,2\nb,5,6\na,3,4\n".encode("cp1252"),
            "heart.csv: read as Windows-1252, since it is not UTF-8",
        ),
        ("heart.csv", "id,rate,x\na,1,2\nb,5,6\na,3,4\n".encode("utf-16"), None),
    ],
)
def test_text_as_people_save_it(folder, name, text, note):
    (folder / "heart.csv").unlink()
    (folder / name).write_bytes(text if isinstance(text, bytes) else text.encode())
    (folder / "._heart.csv").write_bytes(b"\0\1")  # which macOS leaves behind
    data = load_splits(folder)["train"]
    assert data[0].inputs["heart"].tolist() == HEART
    assert note is None or note in data.report["notes"]
    assert "heart" in str(data_table({"train": data}))
    assert note is None or note in data_table({"train": data})


def test_rows_that_stand_apart_are_said(folder):
    notes = load_splits(folder)["train"].report["notes"]
    assert "heart.csv: rows of an id are not contiguous (3 runs of 2 ids); they are joined in file order" in notes
    assert "motion.csv: 1 empty cells in 'x', filled with the mean of the training samples" in notes


@pytest.mark.parametrize("suffix", [".parquet", ".xlsx"])
def test_tables_that_pandas_can_read(folder, suffix):
    pandas = pytest.importorskip("pandas")
    pytest.importorskip({".parquet": "pyarrow", ".xlsx": "openpyxl"}[suffix], reason="needs a reader of such files")
    frame = pandas.read_csv(folder / "heart.csv")
    (folder / "heart.csv").unlink()
    write = frame.to_parquet if suffix == ".parquet" else frame.to_excel
    write(folder / f"heart{suffix}", index=False)
    assert load_splits(folder)["train"][0].inputs["heart"].tolist() == HEART


def test_a_table_whose_reader_is_missing_is_named(folder, monkeypatch):
    pandas = pytest.importorskip("pandas")

    def absent(path):
        raise ImportError("Missing optional dependency 'pyarrow'")

    monkeypatch.setattr(pandas, "read_parquet", absent)
    (folder / "x.parquet").write_bytes(b"PAR1")
    with pytest.raises(DataError, match=r"x.parquet: needs a library that is not installed \(.*pyarrow.*\); install it"):
        load_splits(folder)


@pytest.mark.parametrize(
    ("cells", "names", "labels"),
    [
        (["running", "walking", "running"], ["running", "walking"], [0, 1, 0]),
        (["True", "False", "True"], ["False", "True"], [1, 0, 1]),
        (["yes", "no", "no"], ["no", "yes"], [1, 0, 0]),
    ],
)
def test_words_are_classes(folder, cells, names, labels):
    rows = zip("abc", ["Training", "val", "TEST"], cells, strict=True)
    (folder / "labels.csv").unlink()
    (folder / "Labels.csv").write_text("Id,Split,State\n" + "".join(f"{','.join(row)}\n" for row in rows), encoding="utf-8")
    splits = load_splits(folder, modalities=["heart", "age"])
    assert list(splits) == ["train", "valid", "test"]
    assert [int(data.labels) for data in splits.values()] == labels
    assert splits["train"].report["class_names"] == names
    counts = ", ".join(f"{name} {cells.count(name)}" for name in names)
    assert f"Labels.csv: {len(names)} classes in 'State': {counts}".removeprefix("Labels.csv: ") in data_table(splits)


def test_the_column_of_the_label_may_be_named(folder):
    (folder / "labels.csv").write_text("id,split,name,score\na,train,x,1\nb,train,y,2\nc,test,z,4\n", encoding="utf-8")
    assert load_splits(folder, label="Score")["train"].labels.tolist() == [1, 2]
    with pytest.raises(DataError, match=r"labels.csv: has no column 'scor'; it has \['score', 'name'\]"):
        load_splits(folder, label="scor")


def test_numbers_with_a_point_are_said_to_be_numbers(folder):
    (folder / "labels.csv").write_text("id,y\na,0.0\nb,1.0\nc,2.0\n", encoding="utf-8")
    data = load_splits(folder)["all"]
    assert data.labels.is_floating_point()
    assert any(
        "have a decimal point, so they are numbers; write classes as 0, 1, 2 or as words" in n for n in data.report["notes"]
    )


def many(folder, labels):
    ids = [f"s{i}" for i in range(len(labels))]
    (folder / "x.csv").write_text("id,v\n" + "".join(f"{i},{n}\n" for n, i in enumerate(ids)), encoding="utf-8")
    (folder / "labels.csv").write_text(
        "id,y\n" + "".join(f"{i},{y}\n" for i, y in zip(ids, labels, strict=True)), encoding="utf-8"
    )


def test_a_random_split_has_the_same_shares_of_each_class(tmp_path):
    many(tmp_path, ["a"] * 40 + ["b"] * 20)
    splits = load_splits(tmp_path, split=(0.5, 0.25, 0.25), seed=3)
    counts = {name: data.labels.bincount().tolist() for name, data in splits.items()}
    assert counts == {"train": [20, 10], "valid": [10, 5], "test": [10, 5]}
    again, other = (load_splits(tmp_path, split=(0.5, 0.25, 0.25), seed=seed)["train"].ids for seed in (3, 4))
    assert splits["train"].ids == again != other
    assert "split at random with seed 3, each class alike" in splits["train"].report["notes"]
    many(tmp_path, [0.5 * i for i in range(20)])
    assert [len(data) for data in load_splits(tmp_path, split=[0.6, 0.2, 0.2]).values()] == [12, 4, 4]
    for shares, message in (
        ((0.5, 0.4, 0.3), "give the shares of train, valid and test, which add up to 1"),
        (
            (0.5, 0.5),
            r"has no column 'split' with samples of 'train', which two shares divide; give three \(--split 0.7 0.15 0.15\)",
        ),
        ((0.98, 0.01, 0.01), "20 samples are too few, valid would have none"),
    ):
        with pytest.raises(DataError, match=message):
            load_splits(tmp_path, split=shares)
    (tmp_path / "labels.csv").unlink()
    with pytest.raises(DataError, match="a split is drawn of samples with labels; add a table 'labels'"):
        load_splits(tmp_path, split=(0.6, 0.2, 0.2))


def test_valid_is_drawn_from_train_where_there_is_a_test_alone(tmp_path):
    many(tmp_path, ["up", "down"] * 15)
    lines = (tmp_path / "labels.csv").read_text().splitlines()
    of = ["train"] * 20 + ["test"] * 10
    (tmp_path / "labels.csv").write_text(
        "\n".join([lines[0] + ",split", *map(",".join, zip(lines[1:], of, strict=True))]) + "\n"
    )
    before = load_splits(tmp_path)
    splits = load_splits(tmp_path, split=(0.8, 0.2))
    assert {name: data.labels.bincount().tolist() for name, data in splits.items()} == {
        "train": [8, 8],
        "valid": [2, 2],
        "test": [5, 5],
    }
    assert splits["test"].ids == before["test"].ids
    assert sorted(splits["train"].ids + splits["valid"].ids) == sorted(before["train"].ids)
    assert "valid drawn from train at random with seed 0, each class alike" in splits["train"].report["notes"]
    (tmp_path / "labels.csv").write_text((tmp_path / "labels.csv").read_text().replace("test", "valid"))
    with pytest.raises(DataError, match=r"has the splits \['train', 'valid'\], so that valid cannot be drawn from train"):
        load_splits(tmp_path, split=(0.8, 0.2))


def test_a_split_is_not_drawn_over_one_that_is_there(folder):
    with pytest.raises(DataError, match=r"labels.csv: has a column 'split' already; leave out split=.*, or give two shares"):
        load_splits(folder, split=(0.5, 0.25, 0.25))
    np.savez(folder / "x.npz", **{"train.a": np.ones((2, 3)), "train.labels": [0.0, 1.0]})
    with pytest.raises(DataError, match="is an archive, which does not support split=; leave it out"):
        load_splits(folder / "x.npz", split=(0.5, 0.25, 0.25))


def test_columns_of_a_modality_may_have_several_patterns(tmp_path):
    path = tmp_path / "all.csv"
    path.write_text(
        "ID,split,state,height,left width,right width,x,depth\n1,train,up,1,2,3,4,5\n2,train,down,5,6,7,8,9\n", "utf-8"
    )
    splits = load_splits(path, columns={"a": "*width,height", "b": "x, depth"}, label="state")
    assert splits["train"].report["feature_names"] == {"a": ["height", "left width", "right width"], "b": ["x", "depth"]}
    assert splits["train"][0].inputs["a"].tolist() == [1, 2, 3]
    with pytest.raises(DataError, match=r"all.csv: no column matches 'wide' among 'ID', 'split'"):
        load_splits(path, columns={"a": "height,wide"})
    path.write_text("id,q[1],q1,l*,label\n1,1,2,3,up\n2,5,6,7,down\n", encoding="utf-8")
    exact = load_splits(path, columns={"a": ["q[1]"], "b": ["l*"]}, label="label")["all"]  # names before patterns
    assert exact.report["feature_names"] == {"a": ["q[1]"], "b": ["l*"]}
    path.write_text('id,state,"a,b",c\n1,up,1,2\n2,down,3,4\n', encoding="utf-8")
    assert load_splits(path, columns={"a": "a,b", "c": "c"})["all"].report["feature_names"] == {"a": ["a,b"], "c": ["c"]}


def test_one_table_with_everything(tmp_path):
    path = tmp_path / "all.csv"
    path.write_text("id,split,state,a_x,a_y,b_z\n1,train,up,1,2,3\n1,train,up,4,5,6\n2,test,down,7,8,9\n", encoding="utf-8")
    splits = load_splits(path, columns={"a": "a_*", "b": "b_*"})
    assert splits["train"].sizes == {"a": 2, "b": 1}
    assert splits["train"][0].inputs["a"].tolist() == [[1, 2], [4, 5]]
    assert splits["test"][0].inputs["b"].tolist() == [[9]]
    assert [int(data.labels) for data in splits.values()] == [1, 0]
    assert splits["train"].report["class_names"] == ["down", "up"]
    with pytest.raises(DataError, match=r"all.csv: no column matches 'c_\*' among 'id', 'split'"):
        load_splits(path, columns={"c": "c_*"})


def test_gaps_do_not_move_the_moments(tmp_path):
    """A feature of 37 +- 0.1 with a tenth of its cells empty had moments of 33.3 +- 11.1, where gaps counted as 0."""
    rng = np.random.default_rng(0)
    values = 37 + 0.1 * rng.normal(size=300)
    cells = [f"{value:.6f}" if i % 10 else "" for i, value in enumerate(values)]
    (tmp_path / "x.csv").write_text("id,t\n" + "".join(f"s{i // 5},{cell}\n" for i, cell in enumerate(cells)))
    found = load_splits(tmp_path)["all"].moments()["x"]
    there = np.delete(values, np.arange(0, 300, 10))
    assert float(found.mean) == pytest.approx(there.mean(), abs=1e-4)
    assert float(found.deviation) == pytest.approx(there.std() * 0.9**0.5, rel=1e-3)


def test_a_column_without_numbers_is_named(folder):
    (folder / "heart.csv").write_text("id,rate,x\na,1,\nb,5,\na,3,\n")
    with pytest.raises(DataError, match=r"train: 'heart': feature 1 is never finite"):
        load_splits(folder)


@pytest.mark.parametrize(
    ("cells", "expected", "said"),
    [
        (["1", "", "0"], [1, -100, 0], "labels of train: 0 1, 1 1"),
        (["1.0", "", "0.5"], [1.0, None, 0.5], "labels of train: 0.50 to 1.00"),
        (["run", "NA", "walk"], [0, -100, 1], "labels of train: run 1, walk 1"),
        (["True", "", "False"], [1, -100, 0], "labels of train: False 1, True 1"),
        (["1,0", ",1", "0,"], [[1, 0], [-100, 1], [0, -100]], "labels of train: y 1 of 2, z 1 of 2"),
    ],
)
def test_labels_may_be_missing(folder, cells, expected, said):
    head = "id,y,z" if "," in cells[0] else "id,y"
    (folder / "labels.csv").write_text("\n".join([head, *(f"{i},{cell}" for i, cell in zip("abc", cells, strict=True))]) + "\n")
    (data,) = load_splits(folder).values()
    found = [None if y != y else y for y in data.labels.tolist()] if data.labels.dim() == 1 else data.labels.tolist()
    assert found == expected
    report = data_table({"train": data})
    assert said in report
    missing = 2 if "," in cells[0] else 1
    assert f"{missing} of 3 samples of train lack a label; losses and metrics leave it out" in report


def test_features_are_chosen_by_name(folder):
    data = load_splits(folder, features={"heart": ["variability"]})["train"]
    assert data[0].inputs["heart"].tolist() == [[2], [4]]
    assert "heart.csv: columns that are not used: rate" in data.report["notes"]
    with pytest.raises(DataError, match=r"heart.csv: has no column 'pulse', which is wanted; it has 'rate', 'variability'"):
        load_splits(folder, features={"heart": ["pulse"]})


def test_ids_of_tokens_are_no_features(folder):
    (folder / "text.csv").write_text("id,token\na,101\na,16777217\nb,7\nc,3\n")
    train = load_splits(folder)["train"]
    assert [sample.inputs["text"].tolist() for sample in train] == [[101, 16_777_217], [7]]


def as_frames(folder):
    frames = {path.stem: pandas.read_csv(path) for path in folder.glob("*.csv")}
    return frames, frames.pop("labels")


@pytest.mark.parametrize("indexed", [False, True])
def test_frames_are_what_tables_are(folder, indexed):
    frames, labels = as_frames(folder)
    before = {name: frame.copy() for name, frame in frames.items()}
    given = {name: frame.set_index("id") for name, frame in frames.items()} if indexed else frames
    expected = load_splits(folder)["train"]
    found = SequenceDataset.from_frames(given, labels, split="train")
    assert found.ids == expected.ids
    for name, values in expected.batch([0, 1]).inputs.items():
        assert found.batch([0, 1]).inputs[name].tolist() == values.tolist()
    assert found.labels.tolist() == expected.labels.tolist()
    assert found.report["feature_names"]["heart"] == ["rate", "variability"]
    assert len(SequenceDataset.from_frames(given, labels)) == 3
    assert SequenceDataset.from_frames(given).labels is None
    for name, frame in frames.items():
        assert frame.equals(before[name])


def test_classes_of_frames_have_names(folder):
    frames, labels = as_frames(folder)
    labels["mood"] = ["glad", None, "sad"]
    data = SequenceDataset.from_frames(frames, labels, label="Mood")
    assert data.labels.tolist() == [0, -100, 1]
    assert data.report["class_names"] == ["glad", "sad"]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda frames, labels: frames.update(heart=[1]), r"'heart' is a list: give a pandas.DataFrame with a column 'id'"),
        (lambda frames, labels: frames["heart"].pop("id"), r"heart: its first line must name its columns.* one of them 'id'"),
        (lambda frames, labels: labels.pop("score"), r"labels have no split 'valid'; they have \['train', 'test'\]"),
        (
            lambda frames, labels: frames.update(heart=frames["heart"].assign(rate=["1", "x", "2"])),
            r"heart, row 1: 'x' in column 'rate' is no number",
        ),
    ],
)
def test_wrong_frames_are_named(folder, change, message):
    frames, labels = as_frames(folder)
    change(frames, labels)
    with pytest.raises(DataError, match=message):
        SequenceDataset.from_frames(frames, labels, split="valid")
