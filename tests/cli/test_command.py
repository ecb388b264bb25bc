"""The command line as a user meets it: own tables to a trained model, metrics, predictions and a picture of masks."""

import csv
import json
import re
import sys

import numpy as np
import pytest
import torch

from topdown.cli.main import main
from topdown.datasets import SequenceDataset, load_splits
from topdown.datasets.prepare import prepare
from topdown.training import fit, load_model, predict
from topdown.training.checkpoints import load_checkpoint
from topdown.training.metrics import multilabel_metrics, regression_metrics
from topdown.training.tasks import Task, task_of

SPLITS = ["train"] * 20 + ["valid"] * 8 + ["test"] * 6


def tables(folder, label=lambda y: f"{y:.3f}", aligned=True, labels=True):
    """Two sensors; some samples lack one of them."""
    rng = np.random.default_rng(0)
    rows = {"heart": ["id,rate,change"], "motion": ["id,x,y,z"], "labels": ["id,split,label"]}
    for i, split in enumerate(SPLITS):
        y, steps = rng.normal(), rng.integers(2, 6)
        for t in range(steps + (0 if aligned else 2)):
            if i % 9 != 4:
                rows["heart"].append(f"s{i},{70 + 5 * y + rng.normal():.4f},{rng.normal():.4f}")
            if t < steps:
                rows["motion"].append(f"s{i}," + ",".join(f"{v:.4f}" for v in 100 * rng.normal(size=3) + y))
        rows["labels"].append(f"s{i},{split},{label(y)}")
    folder.mkdir(exist_ok=True)
    for name, lines in rows.items():
        if labels or name != "labels":
            (folder / f"{name}.csv").write_text("\n".join(lines) + "\n", encoding="utf-8")
    return folder


def run(*arguments):
    main([str(argument) for argument in arguments])


def failure(capsys, *arguments):
    with pytest.raises(SystemExit) as stopped:
        run(*arguments)
    captured = capsys.readouterr()
    assert stopped.value.code == 2
    assert captured.err.count("\n") == 1
    return captured.err


def read_table(path):
    with path.open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


SMALL = ["--size", "4", "--epochs", "2", "--learning-rate", "0.01"]


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    folder = tmp_path_factory.mktemp("command")
    tables(folder / "data")
    run("train", folder / "data", "--feedback", "shared", "--out", folder / "out", *SMALL)
    return folder


def test_the_way_of_a_new_user(trained, capsys):
    tables(trained / "new", labels=False)
    run(
        "predict",
        trained / "out/model.pt",
        trained / "new",
        "--out",
        trained / "p.csv",
        "--masks",
        "--page",
        trained / "m.html",
    )
    said = capsys.readouterr().out
    assert f"34 predictions written to {trained / 'p.csv'}" in said
    rows = read_table(trained / "p.csv")
    masks = ["mask heart rate", "mask heart change", "mask motion x", "mask motion y", "mask motion z"]
    assert list(rows[0]) == ["id", "prediction", *masks]
    model = load_model(trained / "out/model.pt")
    data = model.prepare(load_splits(trained / "new")["all"], "new")
    expected = predict(model.model, data)
    assert [row["id"] for row in rows] == data.ids
    assert [float(row["prediction"]) for row in rows] == pytest.approx(expected.squeeze(1).tolist(), abs=1e-6)
    for i, row in enumerate(rows):  # the masks of each sample by itself, over its valid steps
        sample = {k: x.unsqueeze(0) for k, x in data[i].inputs.items() if len(x)}
        with torch.no_grad():
            alone = model.model.masks(sample)
        for name in ("heart", "motion"):
            found = [row[column] for column in masks if column.startswith(f"mask {name} ")]
            if name in sample:
                mean = alone[name].mean(1)[0].tolist() if name in alone else [1.0] * len(found)
                assert [float(value) for value in found] == pytest.approx(mean, abs=2e-6)
            else:
                assert set(found) == {""}
    page = (trained / "m.html").read_text(encoding="utf-8")
    assert page.count("<img") >= 6
    assert "rate" in page


def test_what_is_written_by_training(trained, capsys):
    out = trained / "out"
    assert {path.name for path in out.iterdir()} == {"model.pt", "training.pt", "results.json", "history.csv", "config.json"}
    results = json.loads((out / "results.json").read_text())
    assert results["configuration"]["feedback"] == "shared"
    history = read_table(out / "history.csv")
    assert [float(row["epoch"]) for row in history] == [1, 2]
    assert min(float(row["valid_loss"]) for row in history) == pytest.approx(results["validation_loss"])
    # The metrics are those of the best epoch, which `evaluate` finds again from the file alone.
    run("evaluate", out / "model.pt", trained / "data", "--out", trained / "metrics.json", "--split", "valid", "test")
    assert json.loads((trained / "metrics.json").read_text()) == results["metrics"]
    deviation = float(load_model(out / "model.pt").model.backbone.deviation)  # in which losses of regression count
    assert results["metrics"]["valid"]["mae"] == pytest.approx(results["validation_loss"] * deviation, rel=1e-5)
    assert f"test: mae {results['metrics']['test']['mae']:.4f}" in capsys.readouterr().out


def test_features_are_standardized_by_the_training_split(trained, tmp_path):
    model = load_model(trained / "out/model.pt")
    values = [float(row["rate"]) for row in read_table(trained / "data/heart.csv") if int(row["id"][1:]) < 20]
    assert float(model.moments["heart"].mean[0]) == pytest.approx(np.mean(values), rel=1e-5)
    assert float(model.moments["heart"].deviation[0]) == pytest.approx(np.std(values), rel=1e-4)
    run("train", trained / "data", "--raw", "--out", tmp_path / "out", *SMALL)
    assert load_model(tmp_path / "out/model.pt").moments is None


def test_a_training_goes_on_with_more_epochs(trained, tmp_path):
    arguments = ["train", trained / "data", "--size", "4", "--learning-rate", "0.01", "--feedback", "linear"]
    run(*arguments, "--epochs", "4", "--out", tmp_path / "whole")
    run(*arguments, "--epochs", "2", "--out", tmp_path / "parts")
    run(*arguments, "--epochs", "4", "--out", tmp_path / "parts", "--resume")
    whole, parts = (load_checkpoint(tmp_path / name / "model.pt") for name in ("whole", "parts"))
    assert all(torch.equal(whole["model"][name], value) for name, value in parts["model"].items())
    settings = load_checkpoint(tmp_path / "parts/training.pt")["settings"]
    assert settings["latch"][""]["feedback"] == "linear"


def test_options_may_stand_in_a_file_and_the_line_wins(trained, tmp_path):
    config = {"feedback": "linear", "combine": "max", "sources": {"heart": ["motion"]}, "encoder-grad": True, "batch_size": 7}
    (tmp_path / "c.json").write_text(json.dumps({**config, "epochs": 1, "corrupt": ["noise:0.5:heart", "missing:0.1"]}))
    run("train", trained / "data", "--config", tmp_path / "c.json", "--size", "4", "--combine", "min", "--out", tmp_path / "a")
    latch = load_model(tmp_path / "a/model.pt").model
    options = latch.options()
    assert (options["feedback"], options["combine"], options["encoder_grad"]) == ("linear", "min", True)
    assert (options["sources"], options["start"]) == ({"heart": ["motion"]}, "identity")
    used = json.loads((tmp_path / "a/config.json").read_text())
    assert used["corrupt"] == ["noise:0.5:heart", "missing:0.1"]
    run(
        "train", trained / "data", "--config", tmp_path / "a/config.json", "--out", tmp_path / "b"
    )  # what was used does the same
    one, two = (load_checkpoint(tmp_path / name / "model.pt")["model"] for name in "ab")
    assert all(torch.equal(one[name], value) for name, value in two.items())


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ('{"feedbak": "linear"}', r"there is no option 'feedbak' among \['feedback'"),
        ('{"feedback": "linaer"}', "'feedback': invalid choice: 'linaer'"),
        ('{"epochs": -1}', "'epochs': .*is not a whole number of at least 1"),
        ('{"epochs": [1]}', "'epochs' is a list: give one value"),
        ('{"encoder_grad": "no"}', "'encoder_grad' is 'no': give true or false"),
        ("[1]", "holds a list; give a JSON object of options"),
        ("{", r"cannot be read \(.*\); give a JSON object of options"),
    ],
)
def test_wrong_files_of_options_are_one_line(trained, tmp_path, capsys, content, message):
    (tmp_path / "c.json").write_text(content)
    assert re.search(message, failure(capsys, "train", trained / "data", "--config", tmp_path / "c.json"))


@pytest.mark.parametrize(
    ("label", "columns", "task"),
    [
        (lambda y: int(y > 0) + int(y > 1), ["prediction", "probability"], Task("classification", 3)),
        (lambda y: f"{y:.2f}", ["prediction"], Task("regression", 1)),
    ],
)
def test_labels_tell_the_task(tmp_path, label, columns, task, capsys):
    tables(tmp_path / "data", label)
    run("train", tmp_path / "data", "--feedback", "none", "--out", tmp_path / "out", *SMALL)
    assert load_model(tmp_path / "out/model.pt").description.task == task
    run("predict", tmp_path / "out/model.pt", tmp_path / "data", "--out", tmp_path / "p.csv")
    rows = read_table(tmp_path / "p.csv")
    assert list(rows[0]) == ["id", *columns]
    assert [row["id"] for row in rows] == [f"s{i}" for i, split in enumerate(SPLITS) if split == "test"]
    if task.name == "classification":
        assert {row["prediction"] for row in rows} <= {"0", "1", "2"}
        assert all(1 / 3 < float(row["probability"]) <= 1 for row in rows)
    else:
        arguments = tmp_path / "out/model.pt", tmp_path / "data", "--out", tmp_path / "q.csv", "--probabilities"
        assert "is of regression, which has no probabilities" in failure(capsys, "predict", *arguments)


def test_several_labels_of_a_sample(tmp_path, capsys):
    tables(tmp_path / "data")
    lines = ["id,split,calm,glad"] + [f"s{i},{split},{i % 2},{int(i % 3 == 0)}" for i, split in enumerate(SPLITS)]
    (tmp_path / "data/labels.csv").write_text("\n".join(lines) + "\n")
    run("train", tmp_path / "data", "--out", tmp_path / "out", *SMALL)
    arguments = "predict", tmp_path / "out/model.pt", tmp_path / "data", "--out", tmp_path / "p.csv"
    run(*arguments, "--split", "train", "test", "--probabilities")
    rows = read_table(tmp_path / "p.csv")
    columns = ["prediction_calm", "prediction_glad", "probability of calm", "probability of glad"]
    assert list(rows[0]) == ["split", "id", *columns]
    for name in ("calm", "glad"):
        assert all((float(row[f"probability of {name}"]) > 0.5) == (row[f"prediction_{name}"] == "1") for row in rows)
    assert len(rows) == 26
    assert {row["prediction_calm"] for row in rows} <= {"0", "1"}
    results = json.loads((tmp_path / "out/results.json").read_text())
    assert set(results["metrics"]["test"]) == {"acc", "f1", "n"}
    lines = ["id,split,glad,calm"] + [f"s{i},{split},{int(i % 3 == 0)},{i % 2}" for i, split in enumerate(SPLITS)]
    (tmp_path / "data/labels.csv").write_text("\n".join(lines) + "\n")
    run("evaluate", tmp_path / "out/model.pt", tmp_path / "data", "--out", tmp_path / "m.json")  # found by name
    assert json.loads((tmp_path / "m.json").read_text()) == {"test": results["metrics"]["test"]}
    (tmp_path / "data/labels.csv").write_text("\n".join(line.rpartition(",")[0] for line in lines) + "\n")
    said = failure(capsys, "evaluate", tmp_path / "out/model.pt", tmp_path / "data")
    assert "has the labels ['glad'], but the model learned ['calm', 'glad']: put them in that order" in said


def test_whole_numbers_may_be_numbers(tmp_path):
    tables(tmp_path / "data", lambda y: round(10 * y))
    run("train", tmp_path / "data", "--task", "regression", "--out", tmp_path / "out", *SMALL)
    assert load_model(tmp_path / "out/model.pt").description.task == Task("regression", 1)


def test_modalities_of_different_time_get_mult_and_are_aligned(tmp_path):
    tables(tmp_path / "data", aligned=False)
    run("train", tmp_path / "data", "--layers", "1", "--out", tmp_path / "out", *SMALL)
    found = load_model(tmp_path / "out/model.pt")
    assert (found.description.backbone, found.model.align) == ("mult", "interpolate")
    run("predict", tmp_path / "out/model.pt", tmp_path / "data", "--out", tmp_path / "p.csv", "--masks")
    assert len(read_table(tmp_path / "p.csv")) == 6


def test_stores_archives_and_vectors(tmp_path, trained):
    prepare(trained / "data", tmp_path / "data.store")
    run("train", tmp_path / "data.store", "--feedback", "shared", "--out", tmp_path / "out", *SMALL)
    one, two = (load_checkpoint(path / "model.pt")["model"] for path in (tmp_path / "out", trained / "out"))
    assert all(torch.equal(one[name], value) for name, value in two.items())
    rng = np.random.default_rng(0)
    arrays = {f"{split}.{name}": rng.normal(size=(9, 3)) for split in ("train", "valid", "test") for name in "ab"}
    words = np.array(["glad", "sad"])
    labels = {f"{split}.labels": words[rng.integers(0, 2, 9)] for split in ("train", "valid", "test")}
    np.savez(tmp_path / "v.npz", **arrays, **labels)
    run("train", tmp_path / "v.npz", "--out", tmp_path / "vectors", *SMALL)
    run("predict", tmp_path / "vectors/model.pt", tmp_path / "v.npz", "--out", tmp_path / "p.csv", "--masks")
    predicted = read_table(tmp_path / "p.csv")
    assert len(predicted[0]) == 3 + 6
    assert {row["prediction"] for row in predicted} <= {*words}


def test_data_that_is_made_worse(trained, capsys):
    def mae(*arguments):
        run("evaluate", trained / "out/model.pt", trained / "data", *arguments)
        return float(capsys.readouterr().out.split("mae ")[1].split(",")[0])

    model = load_model(trained / "out/model.pt")
    data = model.prepare(load_splits(trained / "data")["test"], "data").corrupt("noise", 3.0, modalities=["heart"], seed=2)
    expected = regression_metrics(predict(model.model, data).squeeze(1), data.labels)["mae"]
    assert mae("--corrupt", "noise:3:heart", "--seed", "2") == pytest.approx(expected, abs=1e-4)
    assert mae() == mae("--corrupt", "noise:0")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["train", "{data}", "--resume"], "--resume needs --out"),
        (["train", "{data}", "--out", "{out}"], "model.pt: already exists; go on with --resume, or choose another --out"),
        (["train", "{data}", "--task", "classification"], "classes must be whole numbers, one per sample"),
        (["train", "{data}", "--modalities", "heart", "video"], "has no video.csv; it has 'heart', 'motion'"),
        (["train", "{data}", "--sources", "heart=video"], "'video'"),
        (["train", "{unaligned}", "--align", "error", "--layers", "1", "--size", "4"], "align"),
        (["train", "{data}", "--sources", "heart"], "'heart' is not TARGET=SOURCE"),
        (["train", "{data}", "--corrupt", "blur:1"], "there is no corruption 'blur'"),
        (["train", "{data}", "--corrupt", "noise"], "is not KIND:SEVERITY, or KIND:SEVERITY:MODALITY,MODALITY"),
        (["train", "{data}", "--corrupt", "noise:1:video"], "there is no modality 'video' among ['heart', 'motion']"),
        (["train", "{data}", "--device", "nowhere"], "--device nowhere: not available here"),
        (["train", "{data}", "--backbone", "mult", "--modalities", "motion"], "needs at least two"),
        (
            ["train", "{new}"],
            "has no split 'train' and no labels; its splits are ['all']; add a table labels.csv with the columns id, split",
        ),
        (["evaluate", "{model}", "{new}"], "has no labels to compare with; predict works without"),
        (["evaluate", "{model}", "{data}", "--split", "dev"], "has no split 'dev'; it has ['train', 'valid', 'test']"),
        (
            ["evaluate", "{out}/training.pt", "{data}"],
            "is not a topdown model, version 1, which `topdown",
        ),
        (["evaluate", "{out}/config.json", "{data}"], "not a checkpoint"),
        (["evaluate", "{out}/nothing.pt", "{data}"], "nothing.pt: cannot be read (No such file or directory)"),
        (["predict", "{model}", "{other}", "--out", "{out}/p.csv"], "has no heart.csv"),
        (["predict", "{model}", "{data}"], "the following arguments are required: --out"),
    ],
)
def test_what_does_not_fit_is_one_line(trained, tmp_path, capsys, arguments, message):
    new = tables(tmp_path / "new", labels=False)
    wider = tables(tmp_path / "wider", labels=False)
    (wider / "heart.csv").write_text("id,a,b,c\ns1,1,2,3\ns1,1,2,3\n")
    other = tables(tmp_path / "other", labels=False)
    (other / "heart.csv").unlink()
    places = {"data": trained / "data", "out": trained / "out", "model": trained / "out/model.pt"}
    places |= {"new": new, "wider": wider, "other": other, "unaligned": tables(tmp_path / "unaligned", aligned=False)}
    assert message in failure(capsys, *(argument.format(**places) if "{" in argument else argument for argument in arguments))


def test_labels_of_another_task_are_named(trained, tmp_path, capsys):
    classes = tables(tmp_path / "classes", lambda y: int(y > 0))
    run("train", classes, "--out", tmp_path / "out", *SMALL)
    fives = tables(tmp_path / "fives", lambda y: 5)
    said = failure(capsys, "evaluate", tmp_path / "out/model.pt", trained / "data")
    assert "but the model is for classification with 2 outputs" in said
    assert "labels are whole numbers from 5 to 5, 1 per sample" in failure(capsys, "evaluate", tmp_path / "out/model.pt", fives)
    run("evaluate", trained / "out/model.pt", classes)  # whole numbers are numbers, too
    run(
        "predict", tmp_path / "out/model.pt", trained / "data", "--out", tmp_path / "new" / "p.csv"
    )  # which labels do not matter to
    assert (tmp_path / "new" / "p.csv").exists()


def test_a_training_that_goes_on_keeps_its_options(trained, tmp_path, capsys):
    arguments = ["train", trained / "data", *SMALL, "--out", tmp_path / "out"]
    run(*arguments, "--corrupt", "noise:0.1")
    config = (tmp_path / "out/config.json").read_bytes()
    for changed, message in (
        (["--corrupt", "missing:0.9"], "was trained with corrupt ['noise:0.1'], not ['missing:0.9']"),
        (["--corrupt", "noise:0.1", "--dropout", "0.5"], "was trained with dropout None, not 0.5"),
        (["--corrupt", "noise:0.1", "--raw"], "was trained with raw False, not True"),
        (["--corrupt", "noise:0.1", "--feedback", "linear"], "was trained with feedback lstm, not linear"),
    ):
        assert message in failure(capsys, *arguments, *changed, "--resume")
        assert (tmp_path / "out/config.json").read_bytes() == config
    (tmp_path / "out/model.pt").unlink()  # as if interrupted
    assert "training.pt: already exists; go on with --resume" in failure(capsys, *arguments, "--corrupt", "noise:0.1")
    assert "there is no modality 'zz'" in failure(
        capsys, "train", trained / "data", "--corrupt", "noise:1:zz", "--out", tmp_path / "x"
    )
    assert not (tmp_path / "x").exists()


def test_numbers_that_look_like_classes_are_named(tmp_path, capsys):
    data = tables(tmp_path / "data", lambda y: round(1000 * y) + 5000)
    assert "say --task regression if they are numbers" in failure(capsys, "train", data, *SMALL)


def test_columns_are_found_by_name(trained, tmp_path, capsys):
    """Another order and columns that the model does not know change nothing; a column that is missing is named."""
    new = tables(tmp_path / "new", labels=False)
    run("predict", trained / "out/model.pt", new, "--out", tmp_path / "expected.csv")
    lines = [line.split(",") for line in (new / "heart.csv").read_text().splitlines()]
    (new / "heart.csv").write_text("\n".join(f"{i},{b},room,{a}" for i, a, b in lines).replace("room", "7") + "\n")
    (new / "heart.csv").write_text((new / "heart.csv").read_text().replace(",7,", ",room,", 1))
    run("predict", trained / "out/model.pt", new, "--out", tmp_path / "p.csv")
    assert "heart.csv: columns that are not used: room" in capsys.readouterr().out
    assert (tmp_path / "p.csv").read_text() == (tmp_path / "expected.csv").read_text()
    (new / "heart.csv").write_text("\n".join(f"{i},{b}" for i, a, b in lines) + "\n")
    said = failure(capsys, "predict", trained / "out/model.pt", new, "--out", tmp_path / "q.csv")
    assert "heart.csv: has no column 'rate', which is wanted; it has 'change'" in said


def test_the_column_of_the_label_is_remembered(tmp_path, capsys):
    tables(tmp_path / "data")
    path = tmp_path / "data/labels.csv"
    lines = path.read_text().splitlines()
    path.write_text("\n".join([f"{lines[0]},doctor", *(f"{line},Smith" for line in lines[1:])]) + "\n")
    label = lines[0].split(",")[-1]
    assert "that is the label, with label= (--label)" in failure(capsys, "train", tmp_path / "data", *SMALL)
    run("train", tmp_path / "data", "--label", label, "--out", tmp_path / "out", *SMALL)
    capsys.readouterr()
    run("evaluate", tmp_path / "out/model.pt", tmp_path / "data")
    assert "test: mae" in capsys.readouterr().out
    run("predict", tmp_path / "out/model.pt", tmp_path / "data", "--out", tmp_path / "p.csv")
    path.write_text("\n".join(["id,split,doctor", *(",".join([*line.split(",")[:2], "Smith"]) for line in lines[1:])]) + "\n")
    run("predict", tmp_path / "out/model.pt", tmp_path / "data", "--out", tmp_path / "q.csv")
    assert (tmp_path / "p.csv").read_text() == (tmp_path / "q.csv").read_text()


def test_masks_of_a_model_without_feedback_are_refused(trained, tmp_path, capsys):
    run("train", trained / "data", "--feedback", "none", "--out", tmp_path / "out", *SMALL)
    said = failure(capsys, "predict", tmp_path / "out/model.pt", trained / "data", "--out", tmp_path / "p.csv", "--masks")
    assert "is of a model without feedback, which has no masks" in said
    assert not (tmp_path / "p.csv").exists()


def test_nothing_is_written_without_out(trained, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    run("train", trained / "data", *SMALL)
    assert "Results are not saved: pass --out DIR." in capsys.readouterr().out
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("command", [[], ["train"], ["evaluate"], ["predict"]])
def test_help_texts_have_an_example_and_no_artefacts(capsys, command):
    with pytest.raises(SystemExit) as stopped:
        main([*command, "--help"])
    said = capsys.readouterr().out
    assert stopped.value.code == 0
    assert "topdown " + (command[0] if command else "train") in said
    for artefact in ("None", "True", "False", "10000000", "==", "PosixPath"):
        assert artefact not in said.replace("SUPPRESS", "")


def test_the_line_is_taken_from_the_program(trained, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["x", "evaluate", str(trained / "out/model.pt"), str(trained / "data")])
    main()
    assert capsys.readouterr().out.startswith("test: mae ")


def test_metrics_by_hand():
    found = regression_metrics(torch.tensor([[1.0, 0.0], [3.0, 2.0]]), torch.tensor([[2.0, 0.0], [2.0, 4.0]]))
    assert found["mae"] == 1.0
    assert found["rmse"] == pytest.approx((1 + 2**0.5) / 2)
    assert found["corr"] == pytest.approx(0.5)  # 0 for the constant column, 1 for the other
    assert np.isnan(found["r2"])
    found = multilabel_metrics(torch.tensor([[1.0, -1.0, -1.0], [1.0, 1.0, -1.0]]), torch.tensor([[1, 1, 0], [0, 1, 0]]))
    assert found == {"acc": pytest.approx(4 / 6), "f1": pytest.approx((2 / 3 + 2 / 3 + 0) / 3), "n": 2}
    sklearn = pytest.importorskip("sklearn.metrics")
    rng = np.random.default_rng(0)
    p, y = rng.normal(size=50), rng.normal(size=50)
    assert regression_metrics(p, y)["r2"] == pytest.approx(sklearn.r2_score(y, p))
    p, y = rng.normal(size=(50, 2)) * [1, 1000], rng.normal(size=(50, 2)) * [1, 1000]  # outputs of different scales
    found = regression_metrics(p, y)
    assert found["r2"] == pytest.approx(sklearn.r2_score(y, p))
    assert found["rmse"] == pytest.approx(sklearn.root_mean_squared_error(y, p))
    for task, outputs, labels in (
        (Task("regression", 2), p, y),
        (Task("classification", 3), rng.normal(size=(40, 3)), rng.integers(0, 3, 40)),
        (Task("multilabel", 5), rng.normal(size=(40, 5)), rng.integers(0, 2, (40, 5))),
    ):
        outputs, labels = torch.from_numpy(outputs), torch.from_numpy(labels)
        assert task.score(outputs, labels) == task.metrics(outputs, labels)[task.metric]
    logits, labels = rng.normal(size=(40, 5)), rng.integers(0, 2, (40, 5))
    assert multilabel_metrics(logits, labels)["f1"] == pytest.approx(sklearn.f1_score(labels, logits > 0, average="macro"))


def test_the_task_of_labels():
    def data(labels):
        return {"train": SequenceDataset.from_arrays({"a": np.zeros((len(labels), 1, 1))}, labels)}

    assert task_of(data([0.5, 1.0])) == Task("regression", 1)
    assert task_of(data([0, 4])) == Task("classification", 5)
    assert task_of(data([[0.5, 1.0], [1.0, 2.0]])) == Task("regression", 2)
    assert task_of(data([[0, 1], [1, 1]])) == Task("multilabel", 2)
    assert task_of(data([0, 1]), "multilabel") == Task("multilabel", 1)
    for labels, asked, message in (
        ([[0, 2], [1, 1]], None, "labels for yes or no must be 0 or 1 each"),
        ([-1, 1], None, "a class is -1: number classes from 0"),
        ([[0.0, 1.0]], "classification", "labels are torch.float32 in 2 columns, but classes must be whole numbers"),
    ):
        with pytest.raises(ValueError, match=message):
            task_of(data(labels), asked)


def test_a_model_of_ones_own_is_kept_with_its_options(trained):
    data = load_splits(trained / "data")
    model = load_model(trained / "out/model.pt")
    prepared = model.prepare(data["train"], "train")
    before = predict(model.model, prepared)
    fit(model.model, prepared, prepared, epochs=1)
    assert not torch.equal(before, predict(model.model, prepared))


def test_classes_have_names_from_the_table_to_the_page(tmp_path, capsys):
    tables(tmp_path / "data", label=lambda y: "up" if y > 0 else "down")
    run("train", tmp_path / "data", "--out", tmp_path / "out", *SMALL)
    assert "2 classes in 'label': down " in capsys.readouterr().out
    arguments = tmp_path / "out/model.pt", tmp_path / "data"
    page = "--page", tmp_path / "p.html"
    run("predict", *arguments, "--out", tmp_path / "p.csv", *page, "--split", "test", "--probabilities")
    rows = read_table(tmp_path / "p.csv")
    assert {row["prediction"] for row in rows} <= {"up", "down"}
    assert list(rows[0]) == ["id", "prediction", "probability", "probability of down", "probability of up"]
    for row in rows:
        of_all = {name: float(row[f"probability of {name}"]) for name in ("down", "up")}
        assert sum(of_all.values()) == pytest.approx(1.0)
        assert row["prediction"] == max(of_all, key=of_all.get)
        assert float(row["probability"]) == max(of_all.values())
    page = (tmp_path / "p.html").read_text(encoding="utf-8")
    first = rows[0]
    assert f"{first['id']}: predicted {first['prediction']} (p = {float(first['probability']):.2f}), label " in page
    run("evaluate", *arguments, "--split", "test", "--out", tmp_path / "m.json")
    expected = json.loads((tmp_path / "m.json").read_text())["test"]["acc"]
    lines = (tmp_path / "data/labels.csv").read_text().splitlines()  # of one class alone, which has another number then
    label = {line.split(",")[0]: line.split(",")[2] for line in lines}
    assert expected == pytest.approx(np.mean([row["prediction"] == label[row["id"]] for row in rows]))
    kept = [line for line in lines if not line.endswith(",down") or ",test," not in line]
    gone = {line.split(",")[0] for line in lines} - {line.split(",")[0] for line in kept}
    only = [line for line in kept if ",test," in line]
    (tmp_path / "data/labels.csv").write_text("\n".join([lines[0], *only]) + "\n", encoding="utf-8")
    for name in ("heart", "motion"):
        table = tmp_path / f"data/{name}.csv"
        head, *cells = table.read_text().splitlines()
        ids = {line.split(",")[0] for line in only}
        table.write_text("\n".join([head, *(line for line in cells if line.split(",")[0] in ids)]) + "\n", encoding="utf-8")
    assert gone
    run("evaluate", *arguments, "--out", tmp_path / "m.json", "--force")
    of_up = [row["prediction"] == "up" for row in rows if label[row["id"]] == "up"]
    assert json.loads((tmp_path / "m.json").read_text())["test"]["acc"] == pytest.approx(np.mean(of_up))
    (tmp_path / "data/labels.csv").write_text("\n".join([lines[0], *only]).replace(",up", ",left") + "\n", encoding="utf-8")
    assert "has the class 'left', but the model learned ['down', 'up']" in failure(capsys, "evaluate", *arguments)
    (tmp_path / "data/labels.csv").write_text("\n".join([lines[0], *only]).replace(",up", ",1") + "\n", encoding="utf-8")
    assert "has numbers as labels, but the model learned classes ['down', 'up']" in failure(capsys, "evaluate", *arguments)


def test_a_split_may_be_drawn_and_a_label_be_named(tmp_path, capsys):
    tables(tmp_path / "data")
    path = tmp_path / "data/labels.csv"
    lines = [line.split(",") for line in path.read_text().splitlines()]
    path.write_text("".join(f"{i},{label},{n}\n" for n, (i, _, label) in enumerate(lines)).replace("label,0", "label,other", 1))
    assert "or pass --split 0.7 0.15 0.15" in failure(capsys, "train", tmp_path / "data")
    options = ["--label", "label", "--split", "0.6", "0.2", "0.2", "--split-seed", "1"]
    run("train", tmp_path / "data", *options, "--out", tmp_path / "out", *SMALL)
    assert "split at random with seed 1" in capsys.readouterr().out
    assert json.loads((tmp_path / "out/config.json").read_text())["split"] == [0.6, 0.2, 0.2]
    run("train", tmp_path / "data", "--config", tmp_path / "out/config.json", "--out", tmp_path / "again")
    one, two = ((tmp_path / out / "history.csv").read_text() for out in ("out", "again"))
    assert [row.split(",")[:3] for row in one.splitlines()] == [row.split(",")[:3] for row in two.splitlines()]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ({"out": True}, "'out' is true: give a value"),
        ({"modalities": [["heart"]]}, "'modalities' is [[\"heart\"]]: give words or numbers"),
        ({"modalities": []}, "'modalities' is []: give words or numbers"),
        ({"epochs": "9" * 5000}, "is not a whole number of at least 1"),
        ({"raw": None, "resume": "yes"}, "'resume' is 'yes': give true or false"),
        ({"batch_size": 2, "batch-size": 3}, "the option 'batch-size' is there twice"),
        ({"batch_sise": 2}, "there is no option 'batch_sise' among ['batch_size'"),
        ({"sources": {"heart": "motion"}, "combine": "avg"}, "'combine': invalid choice: 'avg'"),
    ],
)
def test_values_of_a_file_that_do_not_fit_are_named(tmp_path, capsys, content, message):
    (tmp_path / "c.json").write_text(json.dumps(content), encoding="utf-8-sig")
    said = failure(capsys, "train", tables(tmp_path / "data"), "--config", tmp_path / "c.json")
    assert message in said


def test_null_in_a_file_is_the_default(tmp_path):
    content = dict.fromkeys(["epochs", "feedback", "batch_size", "seed", "scale", "raw", "sources"]) | {"size": 3}
    (tmp_path / "c.json").write_text(json.dumps(content))
    run("train", tables(tmp_path / "data"), "--config", tmp_path / "c.json", "--epochs", "1", "--out", tmp_path / "out")
    assert json.loads((tmp_path / "out/config.json").read_text())["batch_size"] == 4  # for 20 samples


def test_the_file_of_a_training_has_all_its_digits(tmp_path):
    options = ["--corrupt", "noise:0.1234567", "--out", tmp_path / "out", "--epochs", "1", "--size", "3"]
    run("train", tables(tmp_path / "data"), *options)
    assert json.loads((tmp_path / "out/config.json").read_text())["corrupt"] == ["noise:0.1234567"]
    run("train", tmp_path / "data", "--config", tmp_path / "out/config.json", "--out", tmp_path / "out", "--resume")


def test_names_that_are_given_twice_are_named(tmp_path, capsys):
    data = tables(tmp_path / "data")
    twice = ["--sources", "heart=motion", "--sources", "heart=heart"]
    assert "--sources names 'heart' twice; give each name once" in failure(capsys, "train", data, *twice)
    said = failure(capsys, "train", data, "--stream", "heart=x", "--stream", "heart=y")
    assert "--stream names 'heart' twice" in said


def test_files_that_cannot_be_written_are_named_before_the_work(trained, tmp_path, capsys):
    arguments = trained / "out/model.pt", trained / "data"
    assert f"{tmp_path}: is a directory; name a file" in failure(capsys, "predict", *arguments, "--out", tmp_path)
    assert ".: is a directory; name a file" in failure(capsys, "evaluate", *arguments, "--out", "")
    same = ["--out", tmp_path / "p.csv", "--page", tmp_path / "p.csv"]
    assert "is named for predictions and for the page" in failure(capsys, "predict", *arguments, *same)
    run("evaluate", *arguments, "--out", tmp_path / "new" / "m.json")
    (tmp_path / "new" / "m.json").write_text("mine")
    assert "m.json: already exists" in failure(capsys, "evaluate", *arguments, "--out", tmp_path / "new" / "m.json")
    assert (tmp_path / "new" / "m.json").read_text() == "mine"
    run("evaluate", *arguments, "--out", tmp_path / "new" / "m.json", "--force")
    assert "test" in json.loads((tmp_path / "new" / "m.json").read_text())
    said = failure(capsys, "compare", trained / "data", "--from", tmp_path)
    assert "leave out DATA, or --from" in said


def test_predictions_replace_no_file_unasked_and_are_text(trained, tmp_path, capsys):
    arguments = "predict", trained / "out/model.pt", trained / "data", "--out"
    run(*arguments, tmp_path / "p.csv")
    assert "p.csv: already exists; name another file, or pass --force" in failure(capsys, *arguments, tmp_path / "p.csv")
    run(*arguments, tmp_path / "p.csv", "--force")
    said = failure(capsys, *arguments, tmp_path / "p.xlsx")
    assert "predictions are written as comma-separated text; give a name that ends in .csv" in said
    rows = read_table(tmp_path / "p.csv")
    model = load_model(trained / "out/model.pt")
    expected = predict(model.model, model.prepare(load_splits(trained / "data")["test"], "test")).squeeze(1)
    assert torch.equal(torch.tensor([float(row["prediction"]) for row in rows]), expected)  # every digit


def test_what_is_odd_about_classes_and_few_updates_is_said(tmp_path, capsys):
    tables(tmp_path / "data", label=lambda y: int(y > 0))
    path = tmp_path / "data/labels.csv"
    lines = path.read_text().splitlines()
    path.write_text("\n".join([*lines[:-1], lines[-1][:-1] + "7"]) + "\n")
    run("train", tmp_path / "data", *SMALL, "--batch-size", "32")
    said = capsys.readouterr().out
    ones = sum(line.endswith(",train,1") for line in lines)
    assert f"labels of train: 0 {20 - ones}, 1 {ones}\n" in said
    assert "WARNING: test has the class 7, of which train has no sample" in said
    assert "WARNING: 2 updates are few, of 20 samples in batches of 32: try --batch-size 4" in said


def test_one_table_is_read_by_the_command(tmp_path, capsys):
    rng = np.random.default_rng(0)
    lines = ["id,h_1,h_2,m_1,target"]
    for i in range(30):
        y = rng.normal()
        lines += [f"s{i},{y + rng.normal():.3f},{rng.normal():.3f},{rng.normal():.3f},{y:.3f}" for _ in range(3)]
    (tmp_path / "all.csv").write_text("\n".join(lines) + "\n")
    columns = ["--columns", "heart=h_*", "motion=m_*"]
    run("train", tmp_path / "all.csv", *columns, "--split", "0.6", "0.2", "0.2", "--out", tmp_path / "out", *SMALL)
    run("predict", tmp_path / "out/model.pt", tmp_path / "all.csv", "--out", tmp_path / "p.csv")  # which knows the columns
    assert len(read_table(tmp_path / "p.csv")) == 6  # the test samples, as they were drawn
    capsys.readouterr()
    run("evaluate", tmp_path / "out/model.pt", tmp_path / "all.csv", *columns, "--out", tmp_path / "m.json")
    results = json.loads((tmp_path / "out/results.json").read_text())["metrics"]
    assert json.loads((tmp_path / "m.json").read_text()) == {"test": pytest.approx(results["test"])}
    (tmp_path / "new.csv").write_text("\n".join([*lines, *(f"new,{i},0,1,0.5" for i in range(3))]) + "\n")
    run("predict", tmp_path / "out/model.pt", tmp_path / "new.csv", *columns, "--out", tmp_path / "q.csv")
    assert len(read_table(tmp_path / "q.csv")) == 31  # with samples that no split knows, all
    said = failure(capsys, "train", tmp_path / "all.csv", "--columns", "heart")
    assert "argument --columns: 'heart' is not NAME=PATTERN" in said


def test_valid_may_be_drawn_from_train(tmp_path, capsys):
    rng = np.random.default_rng(0)
    names = [f"s{i}" for i in range(20)]
    splits = ["train"] * 12 + ["test"] * 8
    for name in ("a", "b"):
        lines = [f"{i},{rng.normal():.3f}" for i in names for _ in range(2)]
        (tmp_path / f"{name}.csv").write_text("\n".join(["id,x", *lines]) + "\n")
    lines = [f"{i},{split},{rng.normal():.3f}" for i, split in zip(names, splits, strict=True)]
    (tmp_path / "labels.csv").write_text("\n".join(["id,split,y", *lines]) + "\n")
    said = failure(capsys, "train", tmp_path, "--out", tmp_path / "out")
    assert "has no split 'valid'; its splits are ['train', 'test']; " in said
    assert "or pass --split 0.8 0.2 to draw it from train" in said
    run("train", tmp_path, "--split", "0.75", "0.25", "--out", tmp_path / "out", *SMALL)
    assert "valid drawn from train at random with seed 0" in capsys.readouterr().out
    run("evaluate", tmp_path / "out/model.pt", tmp_path, "--split", "train", "valid", "test", "--out", tmp_path / "m.json")
    metrics = json.loads((tmp_path / "m.json").read_text())
    assert {name: found["n"] for name, found in metrics.items()} == {"train": 9, "valid": 3, "test": 8}
    results = json.loads((tmp_path / "out/results.json").read_text())["metrics"]
    assert metrics["valid"] == pytest.approx(results["valid"])
    run("predict", tmp_path / "out/model.pt", tmp_path, "--split", "train", "valid", "test", "--out", tmp_path / "p.csv")
    assert sorted(row["id"] for row in read_table(tmp_path / "p.csv")) == sorted(names)  # none is lost


def test_a_draw_of_three_splits_is_not_one_of_other_files(tmp_path):
    rng = np.random.default_rng(0)

    def table(splits):
        values = [f"s{i},{rng.normal():.3f},{rng.normal():.3f},{rng.normal():.3f}{split}" for i, split in enumerate(splits)]
        return "\n".join(["id,a,b,y" + ",split" * (splits[0] != ""), *values]) + "\n"

    (tmp_path / "mine.csv").write_text(table([""] * 12))
    run(
        "train",
        tmp_path / "mine.csv",
        "--columns",
        "a=a",
        "b=b",
        "--split",
        "0.5",
        "0.25",
        "0.25",
        "--out",
        tmp_path / "out",
        *SMALL,
    )
    (tmp_path / "other.csv").write_text(table([",train"] * 8 + [",test"] * 4))
    run("predict", tmp_path / "out/model.pt", tmp_path / "other.csv", "--split", "train", "test", "--out", tmp_path / "p.csv")
    assert [row["split"] for row in read_table(tmp_path / "p.csv")] == ["train"] * 8 + ["test"] * 4
    folder = tmp_path / "folder"  # the same columns, as tables of their own
    folder.mkdir()
    (folder / "a.csv").write_text("id,a\nx,1\n")
    (folder / "b.csv").write_text("id,b\nx,1\n")
    run("predict", tmp_path / "out/model.pt", folder, "--out", tmp_path / "q.csv")
    assert [row["id"] for row in read_table(tmp_path / "q.csv")] == ["x"]


def test_targets_of_any_scale_are_learned(tmp_path, capsys):
    """Public complaints: labels near 250,000 gave an R2 far below 0 with the default rate."""
    rng = np.random.default_rng(0)
    y = rng.normal(size=120)
    rows = "".join(f"s{i},{value + 0.1 * rng.normal():.4f},{rng.normal():.4f}\n" for i, value in enumerate(y) for _ in range(3))
    for folder, mean, deviation in (("data", 250_000, 50_000), ("unit", 0, 1)):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "x.csv").write_text("id,a,b\n" + rows)
        labels = "".join(f"s{i},{mean + deviation * value:.6f}\n" for i, value in enumerate(y))
        (tmp_path / folder / "labels.csv").write_text("id,price\n" + labels)
    options = ["--split", "0.6", "0.2", "0.2", "--size", "8", "--epochs", "12", "--learning-rate", "0.03", "--feedback", "none"]
    options += ["--batch-size", "12"]
    found = {}
    for name, folder, raw in (("scaled", "data", []), ("raw", "data", ["--raw"]), ("unit", "unit", [])):
        run("train", tmp_path / folder, *options, *raw, "--out", tmp_path / f"of-{name}")
        found[name] = json.loads((tmp_path / f"of-{name}" / "results.json").read_text())["metrics"]["test"]["r2"]
    assert found["scaled"] == pytest.approx(found["unit"], abs=0.01)
    assert found["scaled"] > 0.5
    assert found["raw"] < 0
    everything = ["--split", "train", "valid", "test"]
    run("predict", tmp_path / "of-scaled/model.pt", tmp_path / "data", "--out", tmp_path / "p.csv", *everything)
    predicted = {row["id"]: float(row["prediction"]) for row in read_table(tmp_path / "p.csv")}
    errors = [abs(predicted[f"s{i}"] - (250_000 + 50_000 * value)) for i, value in enumerate(y)]
    assert np.mean(errors) < 15_000  # in the units of the table
    loaded = load_model(tmp_path / "of-scaled/model.pt").model
    values = np.array([250_000 + 50_000 * value for value in y])
    assert abs(float(loaded.mean) - values.mean()) < 10_000
    assert abs(float(loaded.deviation) - values.std()) < 10_000


def test_results_of_another_command_are_not_overwritten(trained, tmp_path, capsys):
    before = (trained / "out/results.json").read_bytes()
    said = failure(capsys, "compare", trained / "data", "--out", trained / "out", *SMALL)
    assert "out: holds the results of something else; choose another --out" in said
    assert (trained / "out/results.json").read_bytes() == before
    (tmp_path / "c").mkdir()
    (tmp_path / "c/results.json").write_text("{}")
    said = failure(capsys, "train", trained / "data", "--out", tmp_path / "c", *SMALL)
    assert "results.json: already exists; go on with --resume, or choose another --out" in said
    assert [path.name for path in (tmp_path / "c").iterdir()] == ["results.json"]
    said = failure(capsys, "train", trained / "data", "--out", tmp_path / "c", "--resume", *SMALL)
    assert "results.json: belongs to no training that can go on, which has a training.pt; choose another --out" in said
    assert (tmp_path / "c/results.json").read_text() == "{}"


def test_an_option_that_cannot_be_leaves_the_directory_free(tmp_path, capsys):
    data = tables(tmp_path / "data")
    for command in ("train", "compare"):
        said = failure(capsys, command, data, "--class-weight", "balanced", "--out", tmp_path / command, *SMALL)
        assert "class_weight is for loss='cross_entropy'" in said
        assert not (tmp_path / command / "config.json").exists()
    run("train", data, "--out", tmp_path / "train", *SMALL)
    assert (tmp_path / "train/model.pt").exists()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["train", "{data}", "--feedback", "none", "--combine", "max"], "--combine is an option of feedback: leave it out"),
        (["train", "{data}", "--feedback", "none", "--sources", "x=y"], "--sources is an option of feedback: leave it out"),
        (["train", "{data}", "--layers", "3"], "--layers is for --backbone mult: leave it out, or choose mult"),
        (["train", "{data}", "--split-seed", "3"], "--split-seed is for a random split: pass --split, too"),
        (["evaluate", "{model}", "{data}", "--seed", "3"], "--seed is the random seed of a corruption: pass --corrupt, too"),
        (["predict", "{model}", "{data}", "--out", "p.csv", "--samples", "3"], "--samples is the number of samples on a page"),
        (["compare", "--from", "{data}", "--seeds", "5"], "--seeds has no effect with --from, which trains nothing"),
    ],
)
def test_options_that_would_be_ignored_are_refused(trained, tmp_path, monkeypatch, capsys, arguments, message):
    monkeypatch.chdir(tmp_path)
    places = {"data": trained / "data", "model": trained / "out/model.pt"}
    assert message in failure(capsys, *[argument.format(**places) for argument in arguments])
    assert list(tmp_path.iterdir()) == []


def test_the_file_of_options_has_the_columns(tmp_path):
    rows = [f"s{i},{i % 3},{i % 5},{i % 7},{i / 40}" for i in range(40)]
    (tmp_path / "one.csv").write_text("\n".join(["id,a_1,a_2,b_1,y", *rows]) + "\n")
    options = ["--columns", "a=a_*", "b=b_1", "--label", "y", "--split", "0.6", "0.2", "0.2"]
    run("train", tmp_path / "one.csv", *options, "--out", tmp_path / "out", *SMALL)
    run("train", tmp_path / "one.csv", "--config", tmp_path / "out/config.json", "--out", tmp_path / "again")
    results = [json.loads((tmp_path / name / "results.json").read_text()) for name in ("out", "again")]
    assert results[0]["metrics"] == results[1]["metrics"]


def test_what_a_command_reads_is_not_replaced(trained, tmp_path, capsys):
    before = (trained / "out/model.pt").read_bytes()
    model = trained / "out/model.pt"
    said = failure(capsys, "evaluate", model, trained / "data", "--out", model, "--force")
    assert "model.pt: is read by this command, and would be replaced; name another file" in said
    assert model.read_bytes() == before


def words(folder, *more):
    """Tables whose labels are words, with further columns."""
    folder.mkdir()
    (folder / "x.csv").write_text("id,a\n" + "".join(f"s{i},{i % 5}\n" for i in range(20) for _ in range(2)))
    head = ",".join(["id", "mood", *more])
    (folder / "labels.csv").write_text(
        head + "\n" + "".join(f"s{i},{'glad' if i % 2 else 'sad'}{',home' * len(more)}\n" for i in range(20))
    )
    return folder


def test_words_are_no_numbers(tmp_path, capsys):
    said = failure(capsys, "train", words(tmp_path / "data"), "--split", "0.6", "0.2", "0.2", "--task", "regression")
    assert "labels are words, such as 'glad', which are classes and no numbers: leave out --task regression" in said


def test_several_columns_of_words_ask_for_the_label(tmp_path, capsys):
    said = failure(capsys, "train", words(tmp_path / "data", "place"), "--split", "0.6", "0.2", "0.2")
    assert (
        "'sad' in column 'mood' is no number; name the one of 'mood', 'place' that is the label, with label= (--label)" in said
    )


def test_a_directory_in_place_of_a_model_names_the_file(trained, tmp_path, capsys):
    said = failure(capsys, "predict", trained / "out", trained / "data", "--out", tmp_path / "p.csv")
    assert f"out: is a directory; name the file in it, such as {trained / 'out' / 'model.pt'}" in said
    (tmp_path / "stopped").mkdir()
    (tmp_path / "stopped/training.pt").write_bytes(b"")
    said = failure(capsys, "predict", tmp_path / "stopped/model.pt", trained / "data", "--out", tmp_path / "p.csv")
    assert "model.pt: is not there yet, since its training has not ended; go on with train --resume" in said


def test_new_samples_that_lack_what_all_training_samples_have_are_counted(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    splits = ["train"] * 8 + ["valid"] * 4 + ["test"] * 4

    def write(folder, absent):
        (tmp_path / folder).mkdir()
        rows = [f"s{i},{i % 3},{i % 5}" for i in range(16)]
        (tmp_path / folder / "heart.csv").write_text("\n".join(["id,x,y", *(r for i, r in enumerate(rows) if i not in absent)]))
        (tmp_path / folder / "motion.csv").write_text("\n".join(["id,z,w", *rows]))
        labels = [f"s{i},{split},{i}.5" for i, split in enumerate(splits)]
        (tmp_path / folder / "labels.csv").write_text("\n".join(["id,split,label", *labels]))

    write("complete", [])
    write("new", [13, 14])
    write("gaps", [2, 13])
    said = {}
    for name in ("complete", "gaps"):
        run("train", name, "--out", f"{name}.out", *SMALL)
        capsys.readouterr()
        run("predict", f"{name}.out/model.pt", "new", "--out", f"{name}.csv")
        said[name] = capsys.readouterr().out
    assert "WARNING: 'heart' is absent in 2 of 4 samples of test, but in no training sample: do not trust" in said["complete"]
    assert "WARNING" not in said["gaps"]


def test_a_page_is_html(trained, tmp_path, capsys):
    arguments = trained / "out/model.pt", trained / "data", "--out", tmp_path / "p.csv", "--page", tmp_path / "p.pdf"
    assert "p.pdf: the page is written as HTML; give a name that ends in .html" in failure(capsys, "predict", *arguments)
