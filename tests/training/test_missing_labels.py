"""Labels that are missing, nan or -100, are left out of losses and metrics, and classes may have weights."""

from __future__ import annotations

import math

import numpy as np
import pytest
import sklearn.metrics
import torch
from sklearn.linear_model import Ridge
from sklearn.utils.class_weight import compute_class_weight
from torch import nn

from topdown.adapters import LSTMBackbone
from topdown.comparison import compare
from topdown.comparison.linear import fit_linear
from topdown.datasets import DataError, SequenceDataset
from topdown.datasets.report import data_table
from topdown.training import ScaledOutput, classification_metrics, fit, predict
from topdown.training.losses import binary_cross_entropy, cross_entropy, mean_absolute_error
from topdown.training.metrics import multilabel_metrics, regression_metrics
from topdown.training.scaled_output import target_moments
from topdown.training.tasks import Task, task_of

NAN = float("nan")
RNG = np.random.default_rng(0)
X = RNG.normal(size=(40, 3))


class Linear(nn.Module):
    """A linear model of the vectors "a"."""

    def __init__(self, outputs=1, features=3):
        super().__init__()
        torch.manual_seed(0)
        self.layer = nn.Linear(features, outputs)

    def forward(self, inputs, lengths=None):
        return self.layer(inputs["a"])


def with_gaps(values, missing):
    """Returns labels of which every third is missing."""
    labels = np.array(values)
    labels[::3] = missing
    return labels


def test_losses_are_means_over_labels_that_are_there():
    output = torch.tensor([[1.0, 5.0], [2.0, 0.0]])
    assert float(mean_absolute_error(output, torch.tensor([[0.0, NAN], [4.0, 1.0]]))) == pytest.approx((1 + 2 + 1) / 3)
    labels = torch.tensor([[1.0, NAN], [0.0, 1.0]])
    expected = (math.log1p(math.exp(-1)) + math.log1p(math.exp(2)) + math.log(2)) / 3
    assert float(binary_cross_entropy(output, labels)) == pytest.approx(expected)
    assert float(binary_cross_entropy(output, torch.tensor([[1, -100], [0, 1]]))) == pytest.approx(expected)
    assert float(cross_entropy(output.double(), torch.tensor([1, -100]))) == pytest.approx(math.log1p(math.exp(-4)))


@pytest.mark.parametrize(
    ("loss", "labels"),
    [
        (mean_absolute_error, [NAN, NAN]),
        (binary_cross_entropy, [NAN, NAN]),
        (cross_entropy, [-100, -100]),
    ],
)
def test_a_batch_without_labels_pulls_nowhere(loss, labels):
    output = torch.ones(2, 2 if loss is cross_entropy else 1, requires_grad=True)
    value = loss(output, torch.as_tensor(labels))
    value.backward()
    assert float(value.detach()) == 0.0
    assert not output.grad.any()


@pytest.mark.parametrize(
    ("loss", "outputs", "labels"),
    [
        ("mae", 1, with_gaps(RNG.normal(size=40), NAN)),
        ("cross_entropy", 4, with_gaps(RNG.integers(0, 4, 40), -100)),
        ("bce", 1, with_gaps(RNG.integers(0, 2, 40), -100)),
    ],
)
def test_a_sample_without_a_label_changes_nothing(loss, outputs, labels):
    """Training with it, in one batch, is training without it."""
    there = np.flatnonzero(labels != -100) if labels.dtype.kind == "i" else np.flatnonzero(~np.isnan(labels))
    fitted = []
    for rows in (range(40), there):
        data = SequenceDataset.from_arrays({"a": X[rows]}, labels[rows])
        model = Linear(outputs)
        found = fit(model, data, data, loss=loss, epochs=3, batch_size=64, learning_rate=0.1)
        fitted.append([*(p.detach() for p in model.parameters()), *(torch.tensor(r["train_loss"]) for r in found.history)])
    for a, b in zip(*fitted, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-5, atol=1e-6)


def test_the_mean_loss_of_an_epoch_counts_labels():
    labels = np.array([1.0, 3.0, 5.0, NAN])
    data = SequenceDataset.from_arrays({"a": np.zeros((4, 3))}, labels)
    model = Linear()
    nn.init.zeros_(model.layer.bias)
    found = fit(model, data, data, batch_size=2, epochs=1, optimizer=lambda p: torch.optim.SGD(p, 0.0))
    assert found.history[0]["train_loss"] == pytest.approx(3.0)
    assert found.best_loss == pytest.approx(3.0)


def test_metrics_are_those_of_the_labels_that_are_there():
    p, y = RNG.normal(size=(40, 2)), RNG.normal(size=(40, 2))
    y[::3, 0] = NAN
    found = regression_metrics(p, y)
    parts = [(p[~np.isnan(y[:, i]), i], y[~np.isnan(y[:, i]), i]) for i in range(2)]
    assert found["mae"] == pytest.approx(np.mean([sklearn.metrics.mean_absolute_error(b, a) for a, b in parts]))
    assert found["r2"] == pytest.approx(np.mean([sklearn.metrics.r2_score(b, a) for a, b in parts]))
    assert found["corr"] == pytest.approx(np.mean([np.corrcoef(a, b)[0, 1] for a, b in parts]))
    assert found["n"] == 40
    assert Task("regression", 2).score(torch.from_numpy(p), torch.from_numpy(y)) == pytest.approx(found["mae"])
    classes = with_gaps(RNG.integers(0, 3, 40), -100)
    logits = RNG.normal(size=(40, 3))
    there = classes != -100
    found = classification_metrics(logits, classes)
    assert found["acc"] == sklearn.metrics.accuracy_score(classes[there], logits[there].argmax(1))
    assert found["n"] == there.sum()
    assert multilabel_metrics([[1.0, -1.0], [2.0, 3.0]], [[1, -100], [0, 1]])["acc"] == pytest.approx(2 / 3)
    assert multilabel_metrics([[1.0, -1.0], [2.0, 3.0]], [[1.0, NAN], [0.0, 1.0]])["acc"] == pytest.approx(2 / 3)


def test_moments_of_targets_leave_out_what_is_missing():
    assert target_moments(torch.tensor([1.0, NAN, 3.0])) == ([2.0], [1.0])


def test_tasks_do_not_count_what_is_missing():
    assert task_of({"train": SequenceDataset.from_arrays({"a": X}, with_gaps(RNG.integers(0, 3, 40), -100))}).output_size == 3
    several = np.where(RNG.random((40, 2)) < 0.3, -100, RNG.integers(0, 2, (40, 2)))
    assert task_of({"train": SequenceDataset.from_arrays({"a": X}, several)}) == Task("multilabel", 2)


def test_splits_must_have_the_same_classes():
    splits = {
        name: SequenceDataset.from_arrays({"a": X[:2]}, words) for name, words in (("train", ["b", "c"]), ("test", ["a", "b"]))
    }
    with pytest.raises(DataError, match=r"labels of 'test' are classes \['a', 'b'\], but others are the classes \['b', 'c'\]"):
        task_of(splits)
    model = LSTMBackbone({"a": 3}, hidden_size=2, output_size=3)
    with pytest.raises(DataError, match=r"labels of 'valid' are classes \['a', 'b'\], but others are the classes \['b', 'c'\]"):
        fit(model, splits["train"], splits["test"], loss="cross_entropy", epochs=1)
    with pytest.raises(
        DataError, match=r"labels of 'train' are numbers, but others are the classes \['a', 'b'\]: give .* classes="
    ):
        task_of({**splits, "train": SequenceDataset.from_arrays({"a": X[:2]}, [0, 1])})


def test_the_report_counts_what_is_missing():
    data = SequenceDataset.from_arrays({"a": X}, with_gaps(RNG.normal(size=40), NAN))
    assert "14 of 40 samples of train lack a label; losses and metrics leave it out" in data_table({"train": data})


def test_the_linear_model_learns_each_label_from_the_samples_that_have_it():
    y = np.stack([X @ [1.0, 2.0, 3.0], X @ [0.0, -1.0, 1.0]], 1) + RNG.normal(size=(40, 2))
    y[::3, 0] = NAN
    data = SequenceDataset.from_arrays({"a": X}, y)
    (_, found), _ = fit_linear(Task("regression", 2), data, data, data)
    there = ~np.isnan(y[:, 0])
    pooled = np.concatenate([X, np.zeros_like(X)], 1)
    scaled = (pooled - pooled.mean(0)) / np.where(pooled.std(0) > 0, pooled.std(0), 1)
    candidates = [Ridge(10.0**k * 40).fit(scaled[there], y[there, 0]).predict(scaled) for k in range(-5, 3)]
    assert min(np.abs(found[:, 0].numpy() - c).max() for c in candidates) < 1e-4


def test_comparisons_take_labels_that_are_missing():
    data = SequenceDataset.from_arrays({k: RNG.normal(size=(60, 3, 2)) for k in "ab"}, with_gaps(RNG.normal(size=60), NAN))
    parts = {"train": data[:20], "valid": data[20:40], "test": data[40:]}
    found = compare(lambda sizes: LSTMBackbone(sizes, hidden_size=2), parts, feedback=["linear"], seeds=2, epochs=1)
    assert all(math.isfinite(run["test"]) for run in found.runs.records)
    assert math.isfinite(found.compared["linear"].difference.sample_error)


def test_labels_that_are_all_missing_are_refused():
    with pytest.raises(DataError, match="label 0 is not finite, nor any other of 40: leave labels out, or give some"):
        SequenceDataset.from_arrays({"a": X}, np.full(40, NAN))
    data = SequenceDataset.from_arrays({"a": X}, with_gaps(RNG.normal(size=40), NAN))
    with pytest.raises(DataError, match="all labels of the validation data are missing"):
        fit(Linear(), data, data.subset([0, 3]))


def test_balanced_weights_are_those_of_scikit_learn():
    classes = np.array([0] * 30 + [1] * 8 + [2] * 2)
    data = SequenceDataset.from_arrays({"a": X}, classes)
    expected = torch.tensor(compute_class_weight("balanced", classes=np.arange(3), y=classes), dtype=torch.float32)
    losses = []
    for weight in ("balanced", dict(enumerate(expected.tolist()))):
        model = Linear(3)
        with torch.no_grad():
            each = nn.functional.cross_entropy(model(data.batch(range(40)).inputs), data.labels, reduction="none")
        found = fit(
            model,
            data,
            data,
            loss="cross_entropy",
            class_weight=weight,
            epochs=1,
            batch_size=7,
            optimizer=lambda p: torch.optim.SGD(p, 0.0),
        )
        assert found.history[0]["train_loss"] == pytest.approx(float((expected[data.labels] * each).mean()), rel=1e-5)
        losses.append(found.best_loss)
    assert losses[0] == pytest.approx(losses[1], rel=1e-6)


def test_weights_find_a_rare_class():
    """With 5 % of the samples in one class and weak features, no weight predicts it never."""
    rng = np.random.default_rng(1)
    classes = (np.arange(400) < 20).astype(int)
    x = rng.normal(size=(400, 3)) + classes[:, None] * 0.8
    data = SequenceDataset.from_arrays({"a": x}, classes)
    recall = {}
    for weight in (None, "balanced"):
        model = Linear(2)
        fit(model, data, data, loss="cross_entropy", class_weight=weight, epochs=30, learning_rate=0.05)
        recall[weight] = float((predict(model, data).argmax(1)[:20] == 1).float().mean())
    assert recall[None] < 0.3
    assert recall["balanced"] > 0.6


@pytest.mark.parametrize(
    ("loss", "weight", "message"),
    [
        ("mae", "balanced", "class_weight is for loss='cross_entropy', not for 'mae'"),
        ("cross_entropy", "even", "class_weight='even': give 'balanced', or a mapping"),
        ("cross_entropy", {0: -1.0}, r"class_weight={0: -1.0}: classes are 0, 1, 2 ..., and weights finite"),
        ("cross_entropy", {0.5: 1.0}, r"class_weight={0.5: 1.0}"),
    ],
)
def test_wrong_weights_are_refused_before_the_first_step(loss, weight, message):
    data = SequenceDataset.from_arrays({"a": X}, RNG.normal(size=40) if loss == "mae" else RNG.integers(0, 2, 40))
    with pytest.raises(DataError, match=message):
        fit(Linear(2), data, data, loss=loss, class_weight=weight)


def test_targets_are_standardized_on_request():
    """Public complaints: labels near 250,000 gave an R2 far below 0 with the default rate."""
    y = X @ [1.0, 2.0, -1.0]
    data = SequenceDataset.from_arrays({"a": X}, 250_000 + 50_000 * y)
    options = {"epochs": 60, "learning_rate": 0.05, "batch_size": 8}
    found = fit(Linear(), data, data, standardize_targets=True, **options)
    assert isinstance(found.model, ScaledOutput)
    assert regression_metrics(predict(found.model, data).squeeze(1), data.labels)["r2"] > 0.95
    apart = (predict(found.model, data).squeeze(1) - data.labels).abs().mean() / data.labels.std(correction=0)
    assert found.best_loss == pytest.approx(float(apart), rel=0.05)  # float32 has steps of .03 at 450,000
    plain = fit(Linear(), data, data, **options)
    assert isinstance(plain.model, Linear)
    assert regression_metrics(predict(plain.model, data).squeeze(1), data.labels)["r2"] < 0


def test_standardized_targets_are_kept_in_checkpoints(tmp_path):
    data = SequenceDataset.from_arrays({"a": X}, 250_000 + 50_000 * (X @ [1.0, 2.0, -1.0]))
    whole = fit(Linear(), data, data, standardize_targets=True, epochs=4)
    fit(Linear(), data, data, standardize_targets=True, epochs=2, checkpoint=tmp_path / "c.pt")
    resumed = fit(Linear(), data, data, standardize_targets=True, epochs=4, checkpoint=tmp_path / "c.pt")
    assert torch.equal(predict(whole.model, data), predict(resumed.model, data))
    with pytest.raises(DataError, match="standardize_targets"):
        fit(Linear(), data, data, epochs=4, checkpoint=tmp_path / "c.pt")
    classes = data.relabeled(torch.zeros(40).long())
    with pytest.raises(DataError, match="standardize_targets is for labels that are real numbers"):
        fit(Linear(2), classes, classes, loss="cross_entropy", standardize_targets=True)


def test_classes_that_begin_at_one_are_said():
    data = SequenceDataset.from_arrays({"a": X}, RNG.integers(1, 4, 40))
    assert "classes begin at 1, so the model has an output for 0, too" in data_table({"train": data})
    assert "classes begin" not in data_table({"train": SequenceDataset.from_arrays({"a": X}, np.arange(40) % 3)})


def test_weights_hold_for_classes_that_only_validation_has():
    train = SequenceDataset.from_arrays({"a": X}, np.arange(40) % 2)
    valid = SequenceDataset.from_arrays({"a": X}, np.arange(40) % 3)
    for weight in ("balanced", {0: np.float32(2)}):
        fit(Linear(3), train, valid, loss="cross_entropy", class_weight=weight, epochs=1)
    with pytest.raises(DataError, match="there is a class 2 but the model returns logits for 2 classes"):
        fit(Linear(2), train, valid, loss="cross_entropy", class_weight="balanced", epochs=1)


def test_losses_of_ones_own_count_labels_too():
    """torch's own loss, which ignores -100, is what "cross_entropy" is."""
    classes = with_gaps(RNG.integers(0, 3, 40), -100)
    data = SequenceDataset.from_arrays({"a": X}, classes)
    lacking = data.subset([*range(0, 40, 3), 1])  # in batches of four, some have no label at all
    found = [
        fit(Linear(3), data, lacking, loss=loss, batch_size=4, epochs=2) for loss in ("cross_entropy", nn.CrossEntropyLoss())
    ]
    for a, b in zip(*(result.history for result in found), strict=True):
        assert a["valid_loss"] == pytest.approx(b["valid_loss"], rel=1e-5)
        assert a["train_loss"] == pytest.approx(b["train_loss"], rel=1e-5)
    numbers = SequenceDataset.from_arrays({"a": X}, with_gaps(RNG.normal(size=40), NAN))
    with pytest.raises(DataError, match=r"not finite|the loss is nan"):
        fit(Linear(), numbers, numbers, loss=lambda output, y: (output.squeeze(1) - y).square().mean(), epochs=1)


def test_numbers_of_numpy_are_numbers(tmp_path):
    data = SequenceDataset.from_arrays({"a": X}, RNG.normal(size=40))
    options = {"learning_rate": np.float64(0.01), "batch_size": np.int64(8), "checkpoint": tmp_path / "c.pt"}
    options["scheduler"] = lambda steps: torch.optim.lr_scheduler.LambdaLR(steps, lambda epoch: np.float64(0.9) ** epoch)
    options["gradient_clip"] = np.float64(1.0)
    fit(Linear(), data, data, epochs=2, **options)
    assert len(fit(Linear(), data, data, epochs=4, **options).history) == 4


@pytest.mark.parametrize("scales", [(1.0, 1e5), (1e5, 1.0), (1e-12, 1e-9), (1.0, 1.0)])
def test_targets_of_different_scales_are_learned_alike(scales):
    """A new user's second target was not learned, since the loss counted the first one alone."""
    rng = np.random.default_rng(0)
    x = rng.normal(size=(160, 1, 4)).astype(np.float32)
    y = np.stack([x[:, 0, 0] + x[:, 0, 1], x[:, 0, 2] - x[:, 0, 3]], 1) * scales
    data = SequenceDataset.from_arrays({"a": x, "b": x[..., :2]}, y)
    model = LSTMBackbone(data.sizes, hidden_size=8, output_size=2, dropout=0.0)
    options = {"epochs": 25, "batch_size": 16, "learning_rate": 0.02, "standardize_targets": True}
    found = fit(model, data[:120], data[120:], **options)
    p, truth = predict(found.model, data[120:]).numpy(), y[120:]
    r2 = 1 - ((p - truth) ** 2).sum(0) / ((truth - truth.mean(0)) ** 2).sum(0)
    assert (r2 > 0.8).all(), r2


def test_a_loss_of_ones_own_that_is_nan_at_missing_labels_is_told_why():
    labelled_by_half = SequenceDataset.from_arrays({"a": X}, with_gaps(X[:, 0], NAN))
    with pytest.raises(DataError, match="a loss of your own gets labels that are missing, nan or -100: leave them out in it"):
        fit(Linear(), labelled_by_half, labelled_by_half, loss=lambda output, y: (output.flatten() - y).abs().mean(), epochs=1)


def test_none_among_numbers_says_how_to_mark_it():
    with pytest.raises(DataError, match=r"labels are of object: .*; nan for one that is missing, or -100 among classes"):
        SequenceDataset.from_arrays({"a": np.ones((2, 3))}, [1.5, None])
