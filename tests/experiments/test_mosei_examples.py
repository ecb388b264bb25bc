"""The example as a user runs it: outputs, interruption and resumption, and wrong input."""

import csv
import importlib.util
import io
import json
import os
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from layouts import SPLITS, all_data, csd, folds, mult, mult_file, save

from topdown import TopDownLatch
from topdown.adapters import LSTMBackbone, MulTBackbone
from topdown.datasets import SequenceDataset
from topdown.datasets.prepare import prepare
from topdown.experiments.sentiment_data import Inputs
from topdown.experiments.tables import COLUMNS, PUBLISHED_MULT, full_report
from topdown.training import progress

EXAMPLES = Path(__file__).parents[2] / "examples"
TINY = ["--samples", "40", "--epochs", "2", "--seeds", "2"]


def load(name):
    spec = importlib.util.spec_from_file_location(name, EXAMPLES / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # for the dataclass of its options
    spec.loader.exec_module(module)
    return module


main = load("mosei_lstm").main
mult_main = load("mosei_mult").main


@pytest.fixture(autouse=True)
def _small(monkeypatch):
    monkeypatch.setitem(main.__globals__, "LSTMBackbone", lambda sizes: LSTMBackbone(sizes, hidden_size=4))


def results(out):
    return json.loads((out / "results.json").read_text())


def numbers(content):
    """What must not depend on when and how fast a run was."""
    for run in content["runs"]:
        for record in [run, *run["history"]]:
            record.pop("seconds")
    return {key: value for key, value in content.items() if key not in ("date", "command")}


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    out = tmp_path_factory.mktemp("finished") / "deep" / "out"
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(main.__globals__, "LSTMBackbone", lambda sizes: LSTMBackbone(sizes, hidden_size=4))
        main([*TINY, "--feedback", "none", "lstm", "--out", str(out)])
    return out


def test_everything_is_written(finished):
    assert sorted(path.name for path in finished.iterdir()) == [
        "checkpoints",
        "history.csv",
        "masks.csv",
        "masks.png",
        "results.json",
        "table.md",
    ]
    names = {f"{kind}-seed{seed}.pt" for kind in ("none", "lstm", "oracle") for seed in (0, 1)}
    assert {path.name for path in (finished / "checkpoints").iterdir()} == names


def test_results_hold_every_run(finished):
    content = results(finished)
    assert content["complete"] is True
    assert content["configuration"]["epochs"] == 2
    assert content["versions"]["torch"] == torch.__version__
    assert content["data"]["train"]["samples"] == 40
    assert [(run["kind"], run["seed"]) for run in content["runs"]] == [
        (kind, seed) for kind in ("none", "lstm", "oracle") for seed in (0, 1)
    ]
    for run in content["runs"]:
        assert run["metrics"]["n"] == 16
        assert run["epochs"] == len(run["history"]) == 2
        assert run["seconds"] == pytest.approx(sum(record["seconds"] for record in run["history"]))
        assert run["validation_loss"] == pytest.approx(run["validation"]["mae"], abs=1e-6)
        assert ("relevance_auc" in run) == (run["kind"] == "lstm")
    mae = [run["metrics"]["mae"] for run in content["runs"] if run["kind"] == "lstm"]
    assert content["summary"]["lstm"]["mean"]["mae"] == pytest.approx(sum(mae) / 2)
    assert set(content["share_of_oracle_gap_closed"]) == {"lstm"}


def test_the_verdict_is_that_of_a_comparison(finished):
    runs = {(run["kind"], run["seed"]): run["metrics"]["mae"] for run in results(finished)["runs"]}
    gain = sum(runs["none", seed] - runs["lstm", seed] for seed in (0, 1)) / 2
    (said,) = [line for line in (finished / "table.md").read_text().splitlines() if line.startswith("**")]
    assert said.startswith("**No evidence that feedback helps here: the best kind, 'lstm', ")
    assert f"{'lowers' if gain > 0 else 'raises'} mae by {abs(gain):.2g}"[:20] in said
    assert "1 kind, 2 seeds, 16 test samples" in said


def test_the_table_says_how_masks_change_with_sentiment(finished):
    rows = [line.strip("|").split("|") for line in (finished / "table.md").read_text().split("(Fig. 2)")[1].splitlines()[4:]]
    assert [tuple(cell.strip() for cell in row[:3]) for row in rows] == [
        ("lstm", seed, name) for seed in "01" for name in ("text", "audio", "visual")
    ]
    means = {}
    for row in csv.DictReader((finished / "masks.csv").read_text().splitlines()):
        if row["mean_mask"]:
            means.setdefault((row["seed"], row["modality"]), []).append(float(row["mean_mask"]))
    for _, seed, name, *numbers in rows:
        own = means[seed.strip(), name.strip()]
        assert float(numbers[-1]) == pytest.approx(max(own) - min(own), abs=1e-4)


def test_every_output_says_that_the_data_is_synthetic(finished, capsys):
    assert "SYNTHETIC DATA" in results(finished)["note"]
    assert (finished / "table.md").read_text().startswith("SYNTHETIC DATA")
    rows = list(csv.DictReader((finished / "masks.csv").read_text().splitlines()))
    assert {row["data"] for row in rows} == {"SYNTHETIC DATA"}
    assert torch.load(finished / "checkpoints" / "lstm-seed0.pt", weights_only=True)["data"] == "SYNTHETIC DATA"
    main([*TINY, "--feedback", "none", "--seeds", "1"])
    assert capsys.readouterr().out.count("SYNTHETIC DATA") == 2


def test_masks_of_every_feature_and_class(finished):
    rows = list(csv.DictReader((finished / "masks.csv").read_text().splitlines()))
    assert len(rows) == 2 * 7 * (300 + 74 + 35)
    assert {row["feedback"] for row in rows} == {"lstm"}
    assert all(0.2689 < float(row["mean_mask"]) < 0.7311 for row in rows if row["mean_mask"])
    assert {int(row["samples"]) for row in rows if row["seed"] == "0" and row["class"] == "0"} != {0}


def test_checkpoints_load_and_give_the_reported_masks(finished):
    state = torch.load(finished / "checkpoints" / "lstm-seed1.pt", weights_only=True)
    latch = TopDownLatch(LSTMBackbone(state["input_sizes"], hidden_size=4), "lstm", start="random")
    latch.load_state_dict(state["model"])
    assert state["kind"] == "lstm"
    assert state["epoch"] in (1, 2)


def test_kinds_start_alike_and_see_the_same_batches(finished, monkeypatch):
    initial, seen = [], []
    original = progress.fit

    def spy(model, train, valid, **options):
        backbone = model.backbone if isinstance(model, TopDownLatch) else model
        initial.append({name: value.clone() for name, value in backbone.state_dict().items()})
        batches = []
        taken = train.batch
        train.batch = lambda indices: batches.append(list(indices)) or taken(indices)
        try:
            result = original(model, train, valid, **options)
        finally:
            del train.batch
        seen.append(batches)
        return result

    monkeypatch.setattr(progress, "fit", spy)
    main([*TINY, "--seeds", "1"])
    assert len(initial) == 5  # none, linear, lstm, shared, oracle
    for state, batches in zip(initial, seen, strict=True):
        assert all(torch.equal(value, initial[0][name]) for name, value in state.items())
        assert batches == seen[0]


def test_an_interrupted_run_resumes_to_the_same_numbers(finished, tmp_path, monkeypatch, capsys):
    original, epochs = progress.fit, []

    def interrupted(*arguments, on_epoch, **options):
        def show(record):
            epochs.append(record)
            on_epoch(record)
            if len(epochs) == 3:  # within the second run
                raise KeyboardInterrupt

        return original(*arguments, on_epoch=show, **options)

    arguments = [*TINY, "--feedback", "none", "lstm", "--out", str(tmp_path)]
    with monkeypatch.context() as patch:
        patch.setattr(progress, "fit", interrupted)
        with pytest.raises(SystemExit) as stopped:
            main(arguments)
    assert stopped.value.code == 130
    assert f"interrupted; go on with --resume --out {tmp_path}" in capsys.readouterr().err
    assert results(tmp_path)["complete"] is False
    assert (tmp_path / "checkpoints" / "lstm-seed0.unfinished.pt").exists()
    main([*arguments, "--resume"])
    said = capsys.readouterr().out
    assert "lstm seed 0  epoch 2/2" in said
    assert "lstm seed 0  epoch 1/2" not in said
    assert "none seed 0  epoch" not in said
    assert numbers(results(tmp_path)) == numbers(results(finished))
    for name in ("masks.csv", "table.md"):
        assert (tmp_path / name).read_text() == (finished / name).read_text()
    assert sorted(path.name for path in (tmp_path / "checkpoints").iterdir()) == sorted(
        path.name for path in (finished / "checkpoints").iterdir()
    )


def test_kinds_and_seeds_may_be_added_and_none_is_lost(tmp_path, capsys):
    def run(*arguments):
        main(["--samples", "40", "--epochs", "2", *arguments, "--out", str(tmp_path), "--resume"])
        return numbers(results(tmp_path))

    run("--feedback", "none", "--seeds", "1")
    everything = run("--feedback", "linear", "none", "--seeds", "2")
    assert [(r["kind"], r["seed"]) for r in everything["runs"]] == [
        (k, s) for k in ("none", "linear", "oracle") for s in (0, 1)
    ]
    capsys.readouterr()
    assert run("--feedback", "linear", "--seeds", "1") == everything
    said = capsys.readouterr().out
    assert "2 of 2 runs are there already" in said
    assert "epoch" not in said


def test_epochs_may_grow(tmp_path, capsys):
    def run(epochs):
        options = ["--samples", "40", "--seeds", "1", "--feedback", "none", "--patience", "3", "--epochs", str(epochs)]
        main([*options, "--learning-rate", "0.01", "--out", str(tmp_path), "--resume"])
        return {r["kind"]: r["epochs"] for r in results(tmp_path)["runs"]}

    assert run(2) == {"none": 2, "oracle": 2}
    grown = run(60)
    assert 2 < grown["none"] < 60  # until patience ended it
    assert "none seed 0: ended after 2 epochs, so it is trained again with 60" in capsys.readouterr().out
    assert run(80) == grown
    assert "2 of 2 runs are there already" in capsys.readouterr().out


def test_histories_are_a_table(finished):
    with (finished / "history.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    runs = results(finished)["runs"]
    assert len(rows) == sum(run["epochs"] for run in runs)
    of_one = [row for row in rows if (row["kind"], row["seed"]) == ("lstm", "1")]
    (history,) = (run["history"] for run in runs if (run["kind"], run["seed"]) == ("lstm", 1))
    assert [{k: float(row[k]) for k in record} for row, record in zip(of_one, history, strict=True)] == history


def test_it_is_said_that_nothing_will_be_kept(capsys):
    main(["--samples", "24", "--seeds", "1", "--feedback", "none", "--epochs", "1"])
    assert "Results are not saved: pass --out DIR." in capsys.readouterr().out


def test_help_has_no_artefacts(capsys):
    for command in (main, mult_main):
        with pytest.raises(SystemExit):
            command(["--help"])
        said = capsys.readouterr().out
        assert "example: python examples/mosei_" in said
        assert "None" not in said
        assert "10000000" not in said
        assert "--batch-size N" in said
        assert "default: True" not in said


def test_a_missing_checkpoint_is_trained_again_and_leftovers_go(tmp_path, capsys):
    arguments = ["--samples", "40", "--epochs", "1", "--seeds", "1", "--feedback", "none", "lstm", "--out", str(tmp_path)]
    main(arguments)
    before = numbers(results(tmp_path))
    (tmp_path / "checkpoints" / "lstm-seed0.pt").unlink()
    (tmp_path / "checkpoints" / "none-seed0.unfinished.pt").touch()  # as when killed between two files
    capsys.readouterr()
    main([*arguments, "--resume"])
    said = capsys.readouterr().out
    assert "lstm seed 0: its checkpoint is missing, so it is trained again" in said
    assert "none seed 0  epoch" not in said
    assert numbers(results(tmp_path)) == before
    assert not list((tmp_path / "checkpoints").glob("*unfinished*"))


def test_a_stale_state_is_not_gone_on_with_unless_asked(tmp_path):
    (tmp_path / "checkpoints").mkdir()
    for kind in ("none", "oracle"):
        (tmp_path / "checkpoints" / f"{kind}-seed0.unfinished.pt").write_bytes(b"stale")
    main(["--samples", "40", "--epochs", "1", "--seeds", "1", "--feedback", "none", "--out", str(tmp_path)])
    assert results(tmp_path)["complete"]


def test_options_reach_the_training_and_seeds_differ(tmp_path, monkeypatch):
    seen, initial = [], []
    original = progress.fit

    def spy(model, train, valid, **options):
        seen.append(options)
        initial.append(next(model.parameters()).clone())
        return original(model, train, valid, **options)

    monkeypatch.setattr(progress, "fit", spy)
    options = ["--patience", "3", "--learning-rate", "0.002", "--batch-size", "7", "--epochs", "1", "--seeds", "2"]
    main(["--samples", "40", "--feedback", "none", *options])
    assert [o["seed"] for o in seen] == [0, 0, 1, 1]
    for o in seen:
        assert (o["patience"], o["learning_rate"], o["batch_size"], o["epochs"]) == (3, 0.002, 7, 1)
    assert torch.equal(initial[0], initial[1])
    assert not torch.equal(initial[0], initial[2])


def test_data_that_changed_is_not_mixed(capsys, tmp_path):
    arguments = [
        "--data",
        tmp_path / "data.pkl",
        "--feedback",
        "none",
        "--epochs",
        "1",
        "--seeds",
        "1",
        "--out",
        tmp_path / "out",
    ]
    mult_file(tmp_path / "data.pkl")
    main([str(argument) for argument in arguments])
    mult_file(tmp_path / "data.pkl", lambda c: c["train"].update(labels=-c["train"]["labels"]))
    assert "was made with sha256" in failure(capsys, [*arguments, "--resume"])


def test_terminals_without_unicode_end_no_run(tmp_path, monkeypatch):
    terminal = io.TextIOWrapper(io.BytesIO(), encoding="ascii")
    monkeypatch.setattr(sys, "stdout", terminal)
    main(["--samples", "16", "--epochs", "1", "--seeds", "2", "--feedback", "none", "--out", str(tmp_path)])
    terminal.flush()
    assert b"?" in terminal.buffer.getvalue()
    assert "±" in (tmp_path / "table.md").read_text(encoding="utf-8")


def failure(capsys, arguments, main=main):
    with pytest.raises(SystemExit) as stopped:
        main([str(argument) for argument in arguments])
    captured = capsys.readouterr()
    assert stopped.value.code == 2
    assert captured.err.count("\n") == 1
    return captured.err


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--feedback", "gru"], "argument --feedback: invalid choice: 'gru' (choose from"),
        (["--seeds", "0"], "argument --seeds: '0' is not a whole number of at least 1"),
        (["--epochs", "-1"], "argument --epochs"),
        (["--device", "cuda:99"], "--device cuda:99: not available here"),
        (["--device", "toaster"], "--device toaster: not available here (no such device); use cpu"),
        (["--device", "meta"], "--device meta: not available here"),
        (["--learning-rate", "-1"], "argument --learning-rate: '-1' is not a number above 0 and at most 1"),
        (["--learning-rate", "nan"], "argument --learning-rate: 'nan' is not a number"),
        (["--learning-rate", "fast"], "argument --learning-rate: 'fast' is not a number"),
        (["--batch-size", "99999999999999"], "argument --batch-size"),
        (["--epoch", "1"], "unrecognized arguments: --epoch 1"),
        (["--data", "x.pkl", "--samples", "3"], "--samples is for synthetic data"),
        (["--unknown"], "unrecognized arguments: --unknown"),
        (["--resume"], "--resume needs --out"),
    ],
)
def test_wrong_options_are_one_line(capsys, arguments, message):
    assert message in failure(capsys, arguments)


WRONG_DATA = {
    "labels out of range": (lambda c: c["train"].update(labels=c["train"]["labels"] + 9), "outside [-3, 3]"),
    "missing key": (lambda c: c["train"].pop("vision") is None or None, "train: 'vision' is missing"),
    "other N": (lambda c: c["test"].update(text=c["test"]["text"][:3]), "'text' has 3 samples but 'labels' has 7"),
    "zero length": (lambda c: [c["test"][k].__setitem__(0, 0) for k in ("text", "audio", "vision")] and None, "has no steps"),
    "other sizes": (lambda c: c["test"].update(audio=c["test"]["audio"][..., :3]), "test has features"),
    "all nan": (lambda c: c["test"]["audio"].__setitem__(slice(None), float("nan")), "is never finite"),
}


@pytest.mark.parametrize("name", WRONG_DATA)
def test_wrong_data_is_one_line_and_writes_nothing(capsys, tmp_path, name):
    change, message = WRONG_DATA[name]
    mult_file(tmp_path / "data.pkl", change)
    error = failure(capsys, ["--data", tmp_path / "data.pkl", "--out", tmp_path / "out"])
    assert message in error
    assert str(tmp_path / "data.pkl") in error
    assert not (tmp_path / "out").exists()


def test_unaligned_data_is_one_line_before_anything_is_written(capsys, tmp_path):
    mult_file(tmp_path / "data.pkl", unaligned=True)
    error = failure(capsys, ["--data", tmp_path / "data.pkl", "--out", tmp_path / "out"])
    assert "train: 'audio' has" in error
    assert "LSTMBackbone puts modalities side by side at each step; align them first" in error
    assert not (tmp_path / "out").exists()

    splits = all_data()  # only the last sample has modalities of different length
    splits["train"].inputs["audio"][-1] = np.ones((4, 4))
    splits["train"].inputs["text"][-1] = np.ones((3, 6))
    save(tmp_path / "data.pkl", mult(splits, unaligned=True))
    assert "train: 'audio' has 4 steps but 'text' has 3" in failure(capsys, ["--data", tmp_path / "data.pkl"])


def test_files_that_are_no_data_are_one_line(capsys, tmp_path):
    assert "there is no such file" in failure(capsys, ["--data", tmp_path / "none.pkl"])
    (tmp_path / "text.pkl").write_text("hello")
    assert "not a pickle" in failure(capsys, ["--data", tmp_path / "text.pkl"])
    (tmp_path / "code.pkl").write_bytes(b"cos\nsystem\n(S'touch x'\ntR.")
    assert "refused, since it asks for os.system" in failure(capsys, ["--data", tmp_path / "code.pkl"])


def test_an_out_that_cannot_be_written_is_one_line_before_training(capsys, tmp_path):
    (tmp_path / "file").touch()
    error = failure(capsys, [*TINY, "--out", tmp_path / "file" / "out"])
    assert "is not a directory" in error
    assert "choose another --out" in error


def test_earlier_results_are_not_overwritten(capsys, finished, tmp_path):
    assert "go on with --resume, or choose another --out" in failure(capsys, [*TINY, "--out", finished])
    assert "was made with epochs 2, not 1" in failure(capsys, [*TINY, "--epochs", "1", "--out", finished, "--resume"])
    for content in ("[]", '{"configuration": [], "runs": []}', '{"configuration": {}, "runs": [{"kind": "lstm"}]}'):
        (tmp_path / "results.json").write_text(content)
        assert "choose another --out" in failure(capsys, [*TINY, "--out", tmp_path, "--resume"])


def test_a_file_of_data(tmp_path, capsys):
    mult_file(tmp_path / "data.pkl")
    options = ["--feedback", "none", "linear", "--seeds", "1", "--epochs", "1", "--out", tmp_path / "out"]
    main([str(option) for option in ["--data", tmp_path / "data.pkl", *options]])
    printed = capsys.readouterr().out
    assert re.search(r"\| train +\| 12 +\|", printed)
    assert "SYNTHETIC" not in printed
    assert results(tmp_path / "out")["note"] == "Measured on data.pkl (data.pkl, MulT), with text, audio, visual."


@pytest.fixture
def _smaller(monkeypatch):
    tiny = {"size": 4, "num_heads": 2, "num_layers": 1}
    monkeypatch.setitem(
        mult_main.__globals__, "MulTBackbone", lambda sizes, **options: MulTBackbone(sizes, **{**tiny, **options})
    )


@pytest.mark.parametrize("unaligned", [False, True])
def test_mult_on_synthetic_data(tmp_path, monkeypatch, unaligned):
    seen = []
    original = progress.fit
    monkeypatch.setattr(progress, "fit", lambda model, *data, **o: seen.append((model, o)) or original(model, *data, **o))
    options = ["--samples", "12", "--epochs", "1", "--seeds", "1", "--feedback", "none", "lstm", "--out", str(tmp_path)]
    mult_main([*options, *(["--unaligned"] if unaligned else [])])
    content = results(tmp_path)
    assert content["data"]["train"]["aligned"] is not unaligned
    assert [run["kind"] for run in content["runs"]] == ["none", "lstm", "oracle"]
    assert "published" not in (tmp_path / "table.md").read_text().lower()  # on other data than the paper's
    rows = list(csv.DictReader((tmp_path / "masks.csv").read_text().splitlines()))
    assert {row["modality"] for row in rows} == {"text", "audio", "visual"}
    backbone, latch = seen[0][0], seen[1][0]
    assert backbone.encoding_sizes["text"] == 2 * 16  # --size small is the default here
    assert latch.align == "interpolate"
    for _, o in seen:
        # Table 5 of Tsai et al. (2019), and the schedule of their code: patience 20, factor 0.1
        assert (o["batch_size"], o["learning_rate"], o["gradient_clip"], o["decay"], o["decay_after"]) == (
            16,
            1e-3,
            1.0,
            0.1,
            21,
        )


@pytest.mark.usefixtures("_smaller")
@pytest.mark.parametrize("unaligned", [False, True])
def test_mult_on_a_file(tmp_path, capsys, unaligned):
    mult_file(tmp_path / "data.pkl", unaligned=unaligned)
    arguments = ["--data", tmp_path / "data.pkl", "--epochs", "1", "--seeds", "1", "--feedback", "linear"]
    mult_main([str(argument) for argument in arguments])
    assert "| MulT + MMLatch (linear), seed 0 alone" in capsys.readouterr().out
    wrong = "--aligned" if unaligned else "--unaligned"
    message = f"train is {'unaligned, not aligned' if unaligned else 'aligned, not unaligned'}; leave out {wrong}"
    assert message in failure(capsys, [*arguments, wrong], mult_main)


@pytest.mark.parametrize(("samples", "shown"), [(20_001, True), (2_000, False)])
def test_published_rows_stand_beside_mosei_alone(samples, shown):
    data = SequenceDataset.from_arrays({"audio": np.zeros((samples, 1, 74)), "visual": np.zeros((samples, 1, 35))})
    splits = dict.fromkeys(("train", "valid"), data.subset(range(samples // 2)))
    assert Inputs(splits, {}, "x.pkl", "").is_mosei == shown
    assert not Inputs(splits, {"train": {}}, "SYNTHETIC DATA", "").is_mosei
    run = {"kind": "none", "seed": 0, "validation_loss": 1.0, "metrics": dict.fromkeys(COLUMNS, 0.5)}
    report = full_report([run], {"none": "MulT"}, source="here", published=PUBLISHED_MULT if shown else {})
    assert ("*published, CMU-MOSEI:* MulT, reproduced + MMLatch" in report) == shown
    assert ("Published rows are the paper's" in report) == shown


def test_mult_has_the_size_of_the_paper_for_data(monkeypatch):
    namespace = type("Options", (), {"size": None, "data": Path("x.pkl")})
    assert (
        sum(p.numel() for p in mult_main.__globals__["build"]({"text": 300, "audio": 74, "visual": 35}, namespace).parameters())
        == 1_549_321
    )


def test_every_kind_of_data_may_be_trained_on(tmp_path, capsys):
    """A pickle, a store of it, and a folder of .csd files hold the same samples: the runs must not differ."""
    pytest.importorskip("h5py")
    splits = all_data()
    save(tmp_path / "data.pkl", mult(splits))
    prepare(tmp_path / "data.pkl", tmp_path / "store")
    csd(tmp_path / "csd", splits)
    (tmp_path / "folds.json").write_text(json.dumps(folds(splits)))
    outcomes = []
    for name, more in (("data.pkl", []), ("store", ["--workers", "1"]), ("csd", ["--folds", str(tmp_path / "folds.json")])):
        out = tmp_path / f"out-{name}"
        main(["--data", str(tmp_path / name), *TINY[2:], "--feedback", "linear", "--out", str(out), *more])
        content = results(out)
        assert content["data"]["train"]["source"]["sha256"] == content["configuration"]["sha256"]
        outcomes.append([(run["metrics"], run["history"][0]["train_loss"]) for run in content["runs"]])
    assert outcomes[0] == outcomes[1] == outcomes[2]
    assert "computational sequences (.csd), sha256" in capsys.readouterr().out


def test_a_subset_is_evenly_spaced_and_remembered(tmp_path, capsys):
    mult_file(tmp_path / "data.pkl")
    arguments = [
        "--data",
        tmp_path / "data.pkl",
        "--subset",
        "7",
        "--epochs",
        "1",
        "--seeds",
        "1",
        "--feedback",
        "none",
        "--out",
        tmp_path / "o",
    ]
    main([str(argument) for argument in arguments])
    content = results(tmp_path / "o")
    assert {split: report["samples"] for split, report in content["data"].items()} == {"train": 7, "valid": 6, "test": 7}
    assert content["data"]["train"]["subset_of"]["samples"] == 12
    assert "train: a subset of 12 samples" in capsys.readouterr().out
    assert "was made with subset 7, not 5" in failure(capsys, [*["5" if a == "7" else a for a in arguments], "--resume"])
    assert "--folds is for --data: leave it out, or name a file" in failure(capsys, ["--folds", "x.json"])


def test_other_labels_and_splits_are_one_line(tmp_path, capsys):
    emotions = {split: np.ones((count, 4, 2)) for split, count in SPLITS.items()}
    mult_file(tmp_path / "x.pkl", lambda c: [c[split].update(labels=y) for split, y in emotions.items()] and None)
    error = failure(capsys, ["--data", tmp_path / "x.pkl"])
    assert "train has labels of torch.int64 of shape (12, 4); this experiment predicts one sentiment" in error
    np.savez(tmp_path / "x.npz", **{"train.audio": np.ones((2, 3, 4)), "train.labels": [0.0, 1.0]})
    assert "has no valid; call its splits train, valid and test, not ['train']" in failure(
        capsys, ["--data", tmp_path / "x.npz"]
    )


def test_says_how_to_go_on_when_nothing_reads_its_output(tmp_path):
    options = ["--samples", "32", "--epochs", "1", "--seeds", "1", "--feedback", "none", "--out", tmp_path / "out"]
    command = [sys.executable, EXAMPLES / "mosei_lstm.py", *map(str, options)]
    with subprocess.Popen(
        command, env={**os.environ, "OMP_NUM_THREADS": "1"}, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as run:
        run.stdout.close()
        message = run.stderr.read()
    assert run.returncode == 1
    remedy = f"go on with --resume --out {tmp_path / 'out'}, and the options as they were"
    assert message == f"mosei_lstm.py: stopped, since nothing reads its output any more; {remedy}\n"
