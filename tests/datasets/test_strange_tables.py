"""Tables and arrays as a reviewer gave them, who looked for what goes wrong in silence."""

from __future__ import annotations

import numpy as np
import pandas
import pytest
import torch

from topdown.datasets import DataError, SequenceDataset, load_splits
from topdown.datasets.prepare import prepare
from topdown.datasets.report import data_table

NAN = float("nan")


def write(folder, **tables):
    for name, rows in tables.items():
        (folder / f"{name}.csv").write_text("\n".join(rows) + "\n")
    return folder


@pytest.mark.parametrize(
    ("rows", "expected"),
    [
        (["id;score", "a;1,5", "b;", "c;2,7"], [1.5, NAN, 2.7]),
        (["id;score", "a;5e-1", "b;", "c;25e-1"], [0.5, NAN, 2.5]),
        (["id;score", "a;1", "b;", "c;2"], [1, -100, 2]),
    ],
)
def test_a_missing_label_does_not_make_numbers_of_others(tmp_path, rows, expected):
    data = load_splits(write(tmp_path, a=["id;x", "a;0,5", "b;1,5", "c;2,5"], labels=rows))["all"]
    assert np.allclose(data.labels.double().numpy(), expected, equal_nan=True)


@pytest.mark.parametrize("apart", [np.arange(-10, 11.0), np.array([-3.0, -1, 1, 3])])
def test_values_keep_their_digits_where_float32_has_their_mean(apart):
    base = 1.7e9 if len(apart) > 4 else 2e7
    data = SequenceDataset.from_arrays({"t": (base + apart)[:, None]})
    found = data.standardized(data.moments()).batch(range(len(apart))).inputs["t"].flatten()
    torch.testing.assert_close(found, torch.from_numpy(apart / apart.std()).float(), rtol=1e-5, atol=1e-6)


def test_labels_keep_their_digits_whatever_is_beside_them():
    assert SequenceDataset.from_arrays({"t": np.ones((1, 1))}, [1_700_000_037.0]).labels.tolist() == [1_700_000_037.0]
    y = np.array([[1.7e9 + 1, NAN], [1.7e9 + 2, NAN], [NAN, 3.0], [NAN, 4.0]])
    assert SequenceDataset.from_arrays({"t": np.ones((4, 1))}, y).labels[:2, 0].tolist() == [1.7e9 + 1, 1.7e9 + 2]
    assert SequenceDataset.from_arrays({"t": np.ones((2, 1))}, [0.1, 0.1]).labels.dtype == torch.float32


def test_one_far_value_does_not_flatten_the_others():
    times = 1.7e9 + np.arange(0, 100, 7.0)[:, None]
    moments = SequenceDataset.from_arrays({"t": times}).moments()
    new = 1.7e9 + np.array([[3.0], [30.0], [60.0], [90.0]])
    both = [SequenceDataset.from_arrays({"t": x}).standardized(moments) for x in (new, np.concatenate([new, [[0.0]]]))]
    first, second = (data.batch([0, 1, 2, 3]).inputs["t"] for data in both)
    torch.testing.assert_close(first, second)
    assert len(first.unique()) == 4


@pytest.mark.parametrize("steps", [1, 2])
def test_a_feature_that_a_split_lacks_gets_the_mean_of_train(tmp_path, steps):
    cells = {"a": "1.0,5", "b": "2.0,7", "c": "3.0,", "d": "4,8"}
    rows = [f"{name},{cell}" for name, cell in cells.items() for _ in range(steps)]
    labels = ["id,split,y", "a,train,1.5", "b,train,2.5", "c,valid,3.5", "d,test,1.5"]
    valid = load_splits(write(tmp_path, a=["id,x,y", *rows], labels=labels))["valid"]
    assert valid[0].inputs["a"].reshape(-1, 2).tolist() == [[3.0, 6.0]] * steps
    assert valid.report["modalities"]["a"]["filled"] == steps


def test_gaps_of_new_data_get_the_mean_of_the_training_data(tmp_path):
    moments = SequenceDataset.from_arrays({"a": np.array([[1.0, 5.0], [2.0, 7.0]])}).moments()
    data = load_splits(write(tmp_path, a=["id,x,y", "n,3.0,", "m,1000,"]), moments=moments)["all"]
    assert data.vectors["a"].tolist() == [[3.0, 6.0], [1000.0, 6.0]]


def with_tokens():
    arrays = {"text": [np.array([1, 2, 3]), np.array([4, 5])], "a": np.ones((2, 3))}
    return SequenceDataset.from_arrays(arrays, [0, 1])


@pytest.mark.parametrize("kind", ["noise", "features", "steps", "missing"])
def test_corruption_leaves_tokens_what_they_are(kind):
    worse = with_tokens().corrupt(kind, 1.0)
    text = worse.batch([0, 1]).inputs["text"]
    assert text.dtype == torch.int64
    expected = torch.zeros(2, 3) if kind == "steps" else torch.tensor([[1, 2, 3], [4, 5, 0]])
    if kind != "missing":
        assert text.tolist() == expected.tolist()
    if kind in ("noise", "features"):
        with pytest.raises(DataError, match="'text' holds ids of tokens, which have neither noise nor features"):
            with_tokens().corrupt(kind, 1.0, modalities=["text"])


def test_masks_leave_tokens_what_they_are():
    masked = with_tokens().masked({"text": torch.ones(2, 1), "a": torch.full((2, 3), 2.0)})
    assert masked[0].inputs["text"].tolist() == [1, 2, 3]
    assert masked[0].inputs["a"].tolist() == [2.0, 2.0, 2.0]


def test_dates_are_refused():
    frame = pandas.DataFrame({"id": list("abc"), "t": pandas.to_datetime(["2024-01-01", None, "2024-01-04"])})
    with pytest.raises(DataError, match="a: column 't' holds dates; give numbers, such as seconds"):
        SequenceDataset.from_frames({"a": frame})
    features = pandas.DataFrame({"id": list("abc"), "x": [1.0, 2.0, 3.0]})
    with pytest.raises(DataError, match="labels: column 't' holds dates"):
        SequenceDataset.from_frames({"a": features}, frame)


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        (["s,1,2,0.5,train", "s,1,2,0.7,train"], "'y' has several values for the id 's'"),
        (["s,1,2,0.5,train", "s,1,2,0.5,valid"], "'split' has several values for the id 's'"),
    ],
)
def test_a_sample_has_one_label_in_one_table(tmp_path, rows, message):
    path = write(tmp_path, one=["id,t,x,y,split", *rows]) / "one.csv"
    with pytest.raises(DataError, match=message):
        load_splits(path, columns={"a": "[tx]"})


def test_a_label_may_stand_in_any_row_of_its_sample(tmp_path):
    path = write(tmp_path, one=["id,t,x,y", "s,1,2,", "s,1,2,0.5", "r,1,2,1.5"]) / "one.csv"
    assert load_splits(path, columns={"a": "[tx]"})["all"].labels.tolist() == [0.5, 1.5]


def test_infinite_labels_name_their_line(tmp_path):
    with pytest.raises(DataError, match=r"labels.csv, line 3: a label is infinite \(1 such rows\); leave it empty"):
        load_splits(write(tmp_path, a=["id,x", "a,1", "b,2"], labels=["id,y", "a,0.5", "b,inf"]))


def two_frames(labels):
    ids = list("abc")
    return pandas.DataFrame({"id": ids, "x": [1.0, 2.0, 3.0]}), pandas.DataFrame({"id": ids, "y": labels})


def test_whole_labels_with_a_gap_are_classes_in_every_form(tmp_path):
    frame, labels = (
        pandas.DataFrame({"id": list("abc"), "x": [1.0, 2.0, 3.0]}),
        pandas.DataFrame({"id": list("abc"), "y": [0, 1, None]}),
    )
    assert SequenceDataset.from_frames({"a": frame}, labels).labels.tolist() == [0, 1, -100]
    frame.to_parquet(tmp_path / "a.parquet")
    labels.to_excel(tmp_path / "labels.xlsx", index=False)
    assert load_splits(tmp_path)["all"].labels.tolist() == [0, 1, -100]


def test_other_labels_have_other_names():
    frame, labels = (
        pandas.DataFrame({"id": list("abc"), "x": [1.0, 2.0, 3.0]}),
        pandas.DataFrame({"id": list("abc"), "y": ["hi", "lo", "hi"]}),
    )
    data = SequenceDataset.from_frames({"a": frame}, labels).relabeled(torch.tensor([0, 2, 1]))
    assert "labels of train: 0 1, 1 1, 2 1" in data_table({"train": data})


def test_tokens_may_be_lists():
    data = SequenceDataset.from_arrays({"text": [[1, 2], []], "a": np.ones((2, 1))}, [0, 1])
    assert data[0].inputs["text"].tolist() == [1, 2]
    assert data.lengths["text"].tolist() == [2, 0]


def test_accents_apart_from_their_letters_are_the_same_names(tmp_path):
    composed, apart = "très calme", "tre\N{COMBINING GRAVE ACCENT}s calme"
    assert composed != apart
    ids = ["Müller", "Mu\N{COMBINING DIAERESIS}ller 2", "Zoë", "Ann"]
    plain_ids = ["Müller", "Müller 2", "Zoë", "Ann"]
    labels = [composed, apart, "vif", apart]
    rows = [f"{i},{split},{y}" for i, split, y in zip(ids, ["train", "train", "test", "train"], labels, strict=True)]
    (tmp_path / "labels.csv").write_text("\n".join(["id,split,humeur", *rows]), encoding="utf-8")
    (tmp_path / "voix.csv").write_text(
        "\n".join(["id,hauteur", *(f"{i},{n}" for n, i in enumerate(plain_ids))]), encoding="utf-8"
    )
    train = load_splits(tmp_path)["train"]
    assert train.ids == ["Müller", "Müller 2", "Ann"]
    assert train.report["class_names"] == [composed, "vif"]
    assert train.labels.tolist() == [0, 0, 0]
    assert "labels.csv: 1 ids were normalized to Unicode NFC" in train.report["notes"]


def test_columns_beside_the_label_that_is_named_are_left_alone(tmp_path):
    rows = [f"s{i // 2},{i},{'train' if i < 4 else 'test'},{i % 3},{i // 2}.5" for i in range(8)]
    (tmp_path / "all.csv").write_text("\n".join(["id,time,split,a_x,mood", *rows]))
    data = load_splits(tmp_path / "all.csv", columns={"a": "a_*"}, label="mood")
    assert data["train"].labels.tolist() == [0.5, 1.5]
    assert "all.csv: columns that are not used: time" in data["train"].report["notes"]
    with pytest.raises(DataError, match=r"'time' has several values for the id 's0' .*, or name another column with --label"):
        load_splits(tmp_path / "all.csv", columns={"a": "a_*"})


def test_decimal_commas_may_begin_far_below(tmp_path):
    rows = [f"s{i};{i % 7}" for i in range(90)] + ["s90;5,5", "s91;6,25"]
    data = load_splits(write(tmp_path, a=["id;x", *rows], labels=["id;label", *(f"s{i};0" for i in range(92))]))["all"]
    assert data.batch([90, 91]).inputs["a"].flatten().tolist() == [5.5, 6.25]
    assert "a.csv: decimal comma" in data.report["notes"]


def test_a_word_for_a_missing_cell_may_have_a_blank_behind_it(tmp_path):
    labels = ["id,label", "s0,1", "s1,1", "s2,1", "s3,1"]
    data = load_splits(write(tmp_path, a=["id,x", "s0,1", "s1,NA ", "s2, nan ", "s3,4 "], labels=labels))["all"]
    assert data.batch([0, 3]).inputs["a"].flatten().tolist() == [1.0, 4.0]


def test_a_lock_of_excel_is_no_table(tmp_path):
    (tmp_path / "~$labels.xlsx").write_bytes(b"of Excel")
    assert len(load_splits(write(tmp_path, a=["id,x", "s0,1"], labels=["id,label", "s0,1"]))["all"]) == 1


@pytest.mark.parametrize(
    ("tables", "message"),
    [
        (
            {"a": ["id,x", "s0,1"], "targets": ["id,label", "s0,1"]},
            "targets.csv: is named like a table of labels",
        ),
        (
            {"everything": ["id,split,x", "s0,train,1"]},
            "everything.csv: has a column 'split', as one table with everything",
        ),
    ],
)
def test_tables_of_labels_by_another_name_are_named(tables, message, tmp_path):
    with pytest.raises(DataError, match=message):
        load_splits(write(tmp_path, **tables))


def test_tables_that_are_not_read_are_named(tmp_path):
    (tmp_path / "a.ods").write_bytes(b"no table")
    with pytest.raises(DataError, match=r"a.ods: .*save a table as .csv"):
        load_splits(tmp_path / "a.ods")


def test_several_labels_are_described_one_by_one():
    x = np.ones((4, 1))
    counts = data_table({"train": SequenceDataset.from_arrays({"a": x}, [[1, 0], [1, 1], [0, 0], [1, 0]])})
    assert "labels of train: 0 3 of 4, 1 1 of 4" in counts
    spans = data_table({"train": SequenceDataset.from_arrays({"a": x}, [[0.5, 1e5], [NAN, -1.0], [2.5, 3.0], [1.0, 2.0]])})
    assert "labels of train: 0 0.5 to 2.5, 1 -1 to 100000" in spans
    said = data_table({"train": SequenceDataset.from_arrays({"a": np.ones((40, 1))}, np.arange(40.0) % 3)})
    assert "labels are 3 whole numbers in torch.float32, taken as numbers to predict; if they are classes" in said


def test_new_data_may_have_a_column_that_was_learned(tmp_path):
    """A feature called 'label' is one where the training said so, also without a table of labels."""
    (data,) = load_splits(write(tmp_path, a=["id,label,x", "s0,1,2"]), features={"a": ["label", "x"]}).values()
    assert data.batch([0]).inputs["a"].flatten().tolist() == [1.0, 2.0]


def test_a_blank_behind_id_leaves_zeros_of_ids(tmp_path):
    write(tmp_path, audio=["id ,f", "007,1.5", "7,2.5", "8,3.5"], labels=["id ,y", "007,0.1", "7,0.2", "8,0.3"])
    data = load_splits(tmp_path)["all"]
    assert data.ids == ["007", "7", "8"]
    assert data.batch([0, 1, 2]).inputs["audio"].tolist() == [[1.5], [2.5], [3.5]]
    torch.testing.assert_close(data.labels, torch.tensor([0.1, 0.2, 0.3]))


def test_a_frame_may_have_a_name_with_a_dot():
    frame = pandas.DataFrame({"id": ["a", "b"], "f": ["1", "x"]}).set_index("id")
    with pytest.raises(DataError, match=r"audio\.v1, row 1: 'x' in column 'f' is no number"):
        SequenceDataset.from_frames({"audio.v1": frame})


def test_one_modality_in_place_of_a_list_is_named(tmp_path):
    write(tmp_path, audio=["id,f", "a,1", "b,2"])
    for call in (load_splits, lambda path, **options: prepare(path, path / "store", **options)):
        with pytest.raises(DataError, match="modalities='audio': give a list of names"):
            call(tmp_path, modalities="audio")


@pytest.mark.parametrize("shares", [(NAN, 0.15, 0.15), (0.7, NAN, 0.15), (0.5, 0.3, 0.3)])
def test_shares_that_do_not_add_up_are_named(tmp_path, shares):
    write(tmp_path, audio=["id,f", "a,1", "b,2", "c,3"], labels=["id,y", "a,1", "b,2", "c,3"])
    with pytest.raises(DataError, match="which add up to 1"):
        load_splits(tmp_path, split=shares)


def test_no_sample_is_not_a_type():
    with pytest.raises(IndexError, match="at least one number of a sample is needed, got none"):
        SequenceDataset.from_arrays({"t": np.ones((4, 1))})[3:3]
