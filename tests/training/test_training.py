import copy

import numpy as np
import pytest
import torch
from torch import nn

from topdown import TopDownLatch
from topdown.adapters import HookedBackbone, LSTMBackbone
from topdown.datasets import DataError, SequenceDataset, data_loader
from topdown.training import ScaledOutput, protocol
from topdown.training.checkpoints import load_checkpoint, save_checkpoint
from topdown.training.fingerprints import named
from topdown.training.prediction import masks_of, predict
from topdown.training.protocol import fit


class Mean(nn.Module):
    """Predicts from the mean over valid steps; has dropout, so that random numbers matter."""

    def __init__(self, outputs=1):
        super().__init__()
        self.layer = nn.Linear(3, outputs)
        self.dropout = nn.Dropout(0.2)

    def forward(self, inputs, lengths=None):
        return self.dropout(self.layer(inputs["a"].sum(1) / lengths.unsqueeze(1)))


def data(count, seed=0, classes=False):
    generator = np.random.default_rng(seed)
    arrays = [generator.normal(size=(n, 3)) for n in generator.integers(1, 7, count)]
    sums = np.array([array.mean(0)[0] for array in arrays])
    return SequenceDataset.from_arrays({"a": arrays}, (sums > 0).astype(int) if classes else 2 * sums)


def scripted(losses, monkeypatch, **options):
    """Fits a model whose validation losses are given."""
    remaining = list(losses)
    weights = []

    def fake_predict(model, data, **_):
        weights.append(copy.deepcopy(model.state_dict()))
        return (data.labels + remaining.pop(0)).unsqueeze(1)

    monkeypatch.setattr(protocol, "predict", fake_predict)
    model = Mean()
    result = fit(model, data(20), data(10, 1), epochs=len(losses), **options)
    return model, result, weights


def test_the_rate_is_halved_after_two_epochs_without_a_fall(monkeypatch):
    losses = [3.0, 2.0, 2.0, 2.5, 2.0, 1.0, 1.5, 1.1, 1.0, 1.2, 0.5]
    _, result, _ = scripted(losses, monkeypatch, learning_rate=8e-4)
    rates = [record["learning_rate"] for record in result.history]
    # Halved after two epochs without a fall: 3 and 4, 7 and 8, 9 and 10; epoch 6 falls before a second one in a row.
    assert rates == pytest.approx([8e-4] * 4 + [4e-4] * 4 + [2e-4] * 2 + [1e-4])
    assert [record["valid_loss"] for record in result.history] == pytest.approx(losses)


def test_training_stops_early_with_the_weights_of_the_best_epoch(monkeypatch):
    losses = [3.0, 1.0, 1.0, 2.0, 1.5, 0.5]
    model, result, weights = scripted(losses, monkeypatch, patience=3)
    assert len(result.history) == 5
    assert (result.best_epoch, result.best_loss) == (2, pytest.approx(1.0))
    assert all(torch.equal(value, weights[1][name]) for name, value in model.state_dict().items())
    assert not torch.equal(weights[1]["layer.weight"], weights[4]["layer.weight"])


def test_the_best_epoch_may_be_the_last(monkeypatch):
    _, result, _ = scripted([3.0, 2.0, 1.0], monkeypatch)
    assert result.best_epoch == 3


def test_training_learns_and_the_loss_is_the_mean_over_samples():
    model = Mean()
    train, valid = data(200), data(50, 1)
    before = (predict(model, valid).squeeze(1) - valid.labels).abs().mean()
    result = fit(model, train, valid, epochs=30, learning_rate=0.05)
    after = (predict(model, valid).squeeze(1) - valid.labels).abs().mean()
    assert result.best_loss == pytest.approx(after.item())
    assert after < before / 2


def test_cross_entropy_for_classes():
    model = Mean(outputs=2)
    train, valid = data(200, classes=True), data(50, 1, classes=True)
    result = fit(model, train, valid, loss="cross_entropy", epochs=30, learning_rate=0.05)
    outputs = predict(model, valid)
    assert result.best_loss == pytest.approx(nn.functional.cross_entropy(outputs, valid.labels).item())
    assert (outputs.argmax(1) == valid.labels).double().mean() > 0.9


def test_predictions_are_in_the_order_of_the_data():
    model, test = Mean().eval(), data(23)
    alone = torch.stack([model(test.batch([i]).inputs, test.batch([i]).lengths)[0] for i in range(len(test))])
    torch.testing.assert_close(predict(model.train(), test, batch_size=4), alone)


def test_random_numbers_of_the_caller_are_left_alone():
    model = Mean()
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    fit(model, data(20), data(10, 1), epochs=2)
    assert torch.equal(torch.rand(3), expected)


def test_the_smallest_fall_counts(monkeypatch):
    losses = [1.0 - 1e-6 * i for i in range(8)]
    _, result, _ = scripted(losses, monkeypatch, learning_rate=8e-4, patience=3)
    assert [record["learning_rate"] for record in result.history] == [8e-4] * 8
    assert result.best_epoch == 8


def test_gradients_may_be_clipped_and_the_decay_chosen(monkeypatch):
    model = Mean()
    norms = []
    step = torch.optim.Adam.step

    def spy(self, *arguments, **options):
        norms.append(torch.stack([p.grad.norm() for p in model.parameters()]).norm().item())
        return step(self, *arguments, **options)

    monkeypatch.setattr(torch.optim.Adam, "step", spy)
    fit(model, data(64), data(10, 1), epochs=1, gradient_clip=0.01)
    assert max(norms) == pytest.approx(0.01, rel=1e-3)
    _, result, _ = scripted([1.0, 2.0, 2.0, 2.0], monkeypatch, learning_rate=1e-3, decay=0.1)
    assert [record["learning_rate"] for record in result.history] == pytest.approx([1e-3, 1e-3, 1e-3, 1e-4])


def test_the_train_loss_is_the_mean_over_samples():
    class Still(nn.Module):
        def __init__(self):
            super().__init__()
            self.value = nn.Parameter(torch.zeros(1))

        def forward(self, inputs, lengths=None):
            return (self.value * 0).expand(len(lengths), 1)

    train = data(37)  # the last batch holds 5
    result = fit(Still(), train, data(10, 1), epochs=1)
    assert result.history[0]["train_loss"] == pytest.approx(train.labels.abs().mean().item())


def test_seeds_decide_on_batches_and_on_dropout():
    def final(seed, samples):
        torch.manual_seed(0)
        model = Mean()
        model.dropout.p = 0.0 if samples > 32 else 0.5
        fit(model, data(samples), data(10, 1), epochs=2, seed=seed)
        return model.layer.weight

    for samples in (30, 100):  # one batch: dropout alone differs; without dropout: batches alone differ
        assert torch.equal(final(1, samples), final(1, samples))
        assert not torch.equal(final(1, samples), final(2, samples))


@pytest.mark.parametrize("stop_after", [1, 4, 5])
def test_an_interrupted_training_ends_as_if_it_had_never_stopped(tmp_path, stop_after):
    class Stop(Exception):
        pass

    def stop(record):
        if record["epoch"] == stop_after:
            raise Stop

    torch.manual_seed(3)
    whole, broken = Mean(), Mean()
    broken.load_state_dict(whole.state_dict())
    expected = fit(whole, data(50), data(10, 1), epochs=12, seed=2, learning_rate=30.0)
    assert len({record["learning_rate"] for record in expected.history}) > 1  # so that the schedule matters
    arguments = {"epochs": 12, "seed": 2, "learning_rate": 30.0, "checkpoint": tmp_path / "state.pt"}
    with pytest.raises(Stop):
        fit(broken, data(50), data(10, 1), on_epoch=stop, **arguments)
    continued = Mean()
    result = fit(continued, data(50), data(10, 1), **arguments)
    assert (result.best_epoch, result.best_loss) == (expected.best_epoch, expected.best_loss)
    for name in ("epoch", "train_loss", "valid_loss", "learning_rate"):
        assert [record[name] for record in result.history] == [record[name] for record in expected.history]
    assert all(torch.equal(value, whole.state_dict()[name]) for name, value in continued.state_dict().items())


def test_a_checkpoint_of_another_training_is_named(tmp_path):
    path = tmp_path / "state.pt"
    fit(Mean(), data(20), data(10, 1), epochs=1, checkpoint=path)
    with pytest.raises(DataError, match=r"state.pt: of a training with .*'seed': 0.*, not .*'seed': 1"):
        fit(Mean(), data(20), data(10, 1), epochs=2, checkpoint=path, seed=1)
    with pytest.raises(DataError, match=r"state.pt: of another model; delete it to train anew"):
        fit(Mean(outputs=2), data(20), data(10, 1), epochs=2, checkpoint=path)
    save_checkpoint({"weights": torch.ones(1)}, path)
    with pytest.raises(DataError, match="of a training with None"):
        fit(Mean(), data(20), data(10, 1), epochs=2, checkpoint=path)


def test_checkpoints_are_whole_and_damage_is_named(tmp_path):
    path = tmp_path / "state.pt"
    save_checkpoint({"a": torch.ones(2)}, path)
    with pytest.raises(AttributeError):  # a local function cannot be pickled; the old file stays
        save_checkpoint({"a": lambda: None}, path)
    assert torch.load(path, weights_only=True)["a"].tolist() == [1, 1]
    assert list(tmp_path.iterdir()) == [path]
    path.write_bytes(path.read_bytes()[:100])
    with pytest.raises(DataError, match=r"state.pt: not a checkpoint \(.*\); delete it to train anew"):
        load_checkpoint(path)


def test_a_loss_that_is_not_finite_is_named():
    model = Mean()
    with torch.no_grad():
        model.layer.weight.fill_(float("nan"))
    with pytest.raises(
        DataError, match=r"the loss is nan .* in epoch 1, batch 1, with samples \d+, .*; look for extreme values"
    ):
        fit(model, data(20), data(10, 1), epochs=1)


def small(labels, sizes=(("a", 2),), steps=3):
    return SequenceDataset.from_arrays({k: np.ones((len(labels), steps, size)) for k, size in sizes}, labels)


@pytest.mark.parametrize(
    ("labels", "loss", "output_size", "message"),
    [
        ([0.0, 1.0], "mse", 1, r"loss='mse' is not known: use one of \['mae', 'cross_entropy', 'bce'\], or a function"),
        ([0, 1], "mae", 1, "labels are torch.int64, which is not for loss='mae': give them as floating"),
        ([0.0, 1.0], "cross_entropy", 2, "labels are torch.float32, which is not for loss='cross_entropy': give classes"),
        ([-1, 1], "cross_entropy", 2, "a class is -1: number classes from 0"),
        ([0.0, 1.0], "mae", 4, r"the model returns \(2, 4\) for labels of shape \(2,\): make it with output_size=1"),
        ([[0.0, 1.0]] * 2, "mae", 1, r"the model returns \(2, 1\) for labels of shape \(2, 2\): make it with output_size=2"),
        (
            [[0, 1]] * 2,
            "cross_entropy",
            2,
            r"the model returns \(2, 2\) for labels of shape \(2, 2\): expected \(B, C\)",
        ),
        (
            [0, 5],
            "cross_entropy",
            2,
            "class 5 but the model returns logits for 2 classes: make it with output_size=6",
        ),
    ],
)
def test_labels_that_do_not_fit_are_named(labels, loss, output_size, message):
    data = small(labels)
    model = LSTMBackbone(data.sizes, hidden_size=2, output_size=output_size)
    with pytest.raises(DataError, match=message):
        fit(model, data, data, loss=loss, epochs=1)


def test_modalities_that_do_not_fit_are_named():
    data = small([0.0, 1.0], [("a", 2), ("b", 3)])
    with pytest.raises(DataError, match=r"the model takes features \{'a': 2\}, but the data has \{'a': 2, 'b': 3\}: make"):
        fit(LSTMBackbone({"a": 2}, hidden_size=2), data, data)
    with pytest.raises(DataError, match=r"the validation data has features \{'a': 2\}, but the training data has"):
        fit(LSTMBackbone(data.sizes, hidden_size=2), data, small([0.0, 1.0]))


def test_a_checkpoint_of_other_data_is_not_gone_on_with(tmp_path):
    model = LSTMBackbone({"a": 2}, hidden_size=2)
    fit(model, small([0.0, 1.0]), small([0.0, 1.0]), epochs=1, checkpoint=str(tmp_path / "c.pt"))
    with pytest.raises(DataError, match=r"c.pt: of a training with .*; delete it to train anew"):
        fit(model, small([1.0, 0.0]), small([0.0, 1.0]), epochs=2, checkpoint=tmp_path / "c.pt")


class Structured(Mean):
    """Returns its prediction within something."""

    def __init__(self, wrap, outputs=1):
        super().__init__(outputs=outputs)
        self.wrap = wrap

    def forward(self, inputs, lengths=None):
        return self.wrap(super().forward(inputs, lengths))


@pytest.mark.parametrize(
    "wrap",
    [
        lambda x: {"logits": x, "states": [x]},
        lambda x: {"logits": x, "more": x + 1},
        lambda x: {"prediction": x, "name": "a"},
        lambda x: (x, x + 1),
        lambda x: [x],
    ],
)
def test_models_may_return_mappings_and_tuples(wrap):
    torch.manual_seed(0)
    plain, wrapped = Mean(), Structured(wrap)
    wrapped.load_state_dict(plain.state_dict())
    results = [fit(model, data(20), data(10, 1), epochs=2) for model in (plain, wrapped)]
    assert results[0].best_loss == results[1].best_loss
    assert torch.equal(predict(plain, data(10, 1)), predict(wrapped, data(10, 1)))


def test_what_is_no_prediction_is_named():
    with pytest.raises(DataError, match=r"no prediction in the output, which is a mapping with \['a', 'b'\]"):
        fit(Structured(lambda x: {"a": x, "b": x}), data(20), data(10, 1), epochs=1)


def test_a_loss_of_ones_own_gets_what_the_model_returns():
    """The same numbers as the built-in loss, from a mapping that no built-in loss could take."""

    def own(output, labels):
        return (output["a"].squeeze(1) - labels).abs().mean()

    torch.manual_seed(0)
    plain, wrapped = Mean(), Structured(lambda x: {"a": x, "b": x})
    wrapped.load_state_dict(plain.state_dict())
    expected = fit(plain, data(20), data(10, 1), epochs=3, batch_size=4)
    ours = fit(wrapped, data(20), data(10, 1), epochs=3, batch_size=4, loss=own)
    for record, other in zip(ours.history, expected.history, strict=True):
        assert record["train_loss"] == pytest.approx(other["train_loss"], rel=1e-6)
        assert record["valid_loss"] == pytest.approx(other["valid_loss"], rel=1e-6)


@pytest.mark.parametrize("dtype", [int, float])
def test_several_labels_of_each_sample(dtype):
    """As IEMOCAP's four emotions, each there or not."""
    generator = np.random.default_rng(0)
    x = generator.normal(size=(60, 5, 3))
    labels = (x.mean(1) > 0).astype(dtype)
    samples = SequenceDataset.from_arrays({"a": x}, labels)
    model = Mean(outputs=3)
    model.layer = torch.nn.Linear(3, 3)
    result = fit(model, samples, samples, loss="bce", learning_rate=0.1, epochs=60)
    assert result.best_loss < 0.5 * result.history[0]["valid_loss"]
    logits, wanted = predict(model, samples), torch.tensor(labels, dtype=torch.float32)
    expected = -(wanted * logits.sigmoid().log() + (1 - wanted) * (1 - logits.sigmoid()).log()).mean()
    assert result.best_loss == pytest.approx(float(expected), rel=1e-5)


def test_classes_may_stand_in_a_column():
    """As MultiBench's files have them."""
    column = SequenceDataset.from_arrays({"a": np.ones((4, 3, 2))}, np.array([[0], [1], [2], [1]]))
    flat = SequenceDataset.from_arrays({"a": np.ones((4, 3, 2))}, np.array([0, 1, 2, 1]))
    losses = []
    for samples in (column, flat):
        torch.manual_seed(0)
        model = Mean(outputs=3)
        model.layer = torch.nn.Linear(2, 3)
        losses.append(fit(model, samples, samples, loss="cross_entropy", epochs=1).best_loss)
    assert losses[0] == losses[1]


@pytest.mark.parametrize(
    ("labels", "loss", "message"),
    [
        ([[0, 1], [1, 0]], "cross_entropy", "several labels of 0 or 1 each are for loss='bce'"),
        ([0.0, 2.0], "bce", r"labels lie in 0..2, but loss='bce' takes labels of 0 or 1"),
    ],
)
def test_labels_of_another_loss_are_named(labels, loss, message):
    samples = SequenceDataset.from_arrays({"a": np.ones((2, 3, 2))}, labels)
    model = Mean(outputs=2)
    model.layer = torch.nn.Linear(2, 2)
    with pytest.raises(DataError, match=message):
        fit(model, samples, samples, loss=loss, epochs=1)


@pytest.mark.uncovered
@pytest.mark.filterwarnings("ignore")  # of the compiler, about itself
@pytest.mark.parametrize("first", [True, False])
def test_a_training_goes_on_with_or_without_compilation(tmp_path, first):
    def compiled(model):
        return torch.compile(model, backend="eager")

    states = []
    for stops in (True, False):
        torch.manual_seed(0)
        path = tmp_path / f"{stops}.pt"
        model = Mean()
        if stops:
            fit(compiled(model) if first else model, data(20), data(10, 1), epochs=2, checkpoint=path)
            model = Mean()
            model = model if first else compiled(model)
        fit(model, data(20), data(10, 1), epochs=4, checkpoint=path)
        states.append({name.replace("_orig_mod.", ""): value for name, value in model.state_dict().items()})
    assert states[0].keys() == states[1].keys()
    for name, value in states[0].items():
        torch.testing.assert_close(value, states[1][name], rtol=0, atol=0)


def test_optimizer_and_scheduler_may_be_others():
    """By hand: one full batch a step, plain gradient descent with a rate that falls by half each epoch."""
    torch.manual_seed(0)
    model, by_hand = Mean(), Mean()
    by_hand.load_state_dict(model.state_dict())
    model.dropout.p = by_hand.dropout.p = 0.0
    train = data(16)
    rates = []
    fit(
        model,
        train,
        train,
        epochs=3,
        batch_size=16,
        optimizer=lambda parameters: torch.optim.SGD(parameters, lr=0.5),
        scheduler=lambda optimizer: torch.optim.lr_scheduler.StepLR(optimizer, 1, gamma=0.5),
        on_epoch=lambda record: rates.append(record["learning_rate"]),
    )
    assert rates == [0.5, 0.25, 0.125]
    batch, states = train.batch(range(16)), []
    for rate in rates:
        by_hand.zero_grad()
        loss = (by_hand(batch.inputs, batch.lengths).squeeze(1) - batch.labels).abs().mean()
        loss.backward()
        with torch.no_grad():
            for p in by_hand.parameters():
                p -= rate * p.grad
        states.append(((by_hand(batch.inputs, batch.lengths).squeeze(1) - batch.labels).abs().mean().item(), copy_of(by_hand)))
    best = min(states, key=lambda state: state[0])[1]
    for name, value in model.state_dict().items():
        torch.testing.assert_close(value, best[name])


def copy_of(model):
    return {name: value.clone() for name, value in model.state_dict().items()}


def test_a_gradient_that_is_not_finite_is_named():
    """The square root at 0: a loss of 0 whose gradient is infinite times zero."""
    samples = SequenceDataset.from_arrays({"a": np.zeros((6, 3, 2))}, np.zeros(6), ids=list("abcdef"))
    model = Mean()
    model.layer = torch.nn.Linear(2, 1)
    torch.nn.init.zeros_(model.layer.bias)
    with pytest.raises(
        DataError, match=r"the loss is 0 and the norm of its gradient nan in epoch 1, batch 1, with samples [a-f], [a-f]"
    ):
        fit(model, samples, samples, loss=lambda output, labels: (output.squeeze(1) - labels).square().mean().sqrt(), epochs=1)


def largest(masks):
    return masks.amax(0)


def test_options_of_a_latch_stand_in_checkpoints(tmp_path):
    samples = small([0.0, 1.0, 2.0, 1.0], [("a", 2), ("b", 3)])

    def latch(**options):
        return TopDownLatch(LSTMBackbone(samples.sizes, hidden_size=2), "linear", start="random", **options)

    path = tmp_path / "c.pt"
    fit(latch(scale=2.0, combine=largest), samples, samples, epochs=1, checkpoint=path)
    found = load_checkpoint(path)["settings"]["latch"][""]
    assert (found["scale"], found["feedback"], found["passes"]) == (2.0, "linear", 1)
    assert found["combine"].startswith("largest ")
    with pytest.raises(DataError, match=r"c.pt: of a training with \{'latch': .*'scale': 2.0.*\}, not .*'scale': 1.0"):
        fit(latch(combine=largest), samples, samples, epochs=2, checkpoint=path)
    assert len(fit(latch(scale=2.0, combine=largest), samples, samples, epochs=2, checkpoint=path).history) == 2


def test_training_data_may_be_other_in_each_epoch():
    samples, epochs = data(20), []

    def augment(train, epoch):
        assert train is samples
        epochs.append(epoch)
        return train.corrupt("noise", 1.0, seed=epoch)

    def final(**options):
        torch.manual_seed(0)
        model = Mean()
        fit(model, samples, data(10, 1), epochs=2, seed=1, **options)
        return model.layer.weight

    plain, noisy = final(), final(augment=augment)
    assert epochs == [1, 2]
    assert not torch.equal(plain, noisy)
    assert torch.equal(plain, final(augment=lambda train, epoch: train))


def test_each_step_is_told():
    steps = []
    fit(Mean(), data(20), data(10, 1), epochs=2, batch_size=8, on_step=lambda *step: steps.append(step))
    assert steps == [(epoch, step, 3) for epoch in (1, 2) for step in (1, 2, 3)]


def test_other_values_and_other_functions_are_another_training(tmp_path):
    path, samples = tmp_path / "c.pt", data(20)
    other = SequenceDataset.from_arrays({"a": [-50 * s.inputs["a"].numpy() for s in samples]}, samples.labels, ids=samples.ids)
    fit(Mean(), samples, data(10, 1), epochs=1, checkpoint=path)
    with pytest.raises(DataError, match=r"of a training with \{'data': "):
        fit(Mean(), other, data(10, 1), epochs=2, checkpoint=path)
    path.unlink()

    def noise(severity):
        return lambda train, epoch: train.corrupt("noise", severity, seed=epoch)

    fit(Mean(), samples, data(10, 1), epochs=1, checkpoint=path, augment=noise(0.5))
    fit(Mean(), samples, data(10, 1), epochs=2, checkpoint=path, augment=noise(0.5))
    with pytest.raises(DataError, match=r"of a training with \{'augment': "):
        fit(Mean(), samples, data(10, 1), epochs=3, checkpoint=path, augment=noise(0.6))
    path.unlink()
    one = {"loss": lambda y, labels: (y.view_as(labels) - labels).abs().mean()}
    two = {"loss": lambda y, labels: (y.view_as(labels) - labels).square().mean()}
    fit(Mean(), samples, data(10, 1), epochs=1, checkpoint=path, **one)
    with pytest.raises(DataError, match=r"of a training with \{'loss': "):
        fit(Mean(), samples, data(10, 1), epochs=2, checkpoint=path, **two)


@pytest.mark.parametrize(
    ("augment", "message"),
    [(lambda d, e: None, "augment returned a NoneType"), (lambda d, e: d[:5], "augment returned 5 samples")],
)
def test_what_augments_must_return_as_many_samples(augment, message):
    with pytest.raises(DataError, match=message):
        fit(Mean(), data(20), data(10, 1), epochs=1, augment=augment)


class Normed(torch.nn.Module):
    """Normalizes the batch, which must have two samples in training."""

    def __init__(self):
        super().__init__()
        self.norm, self.dropout, self.head = torch.nn.BatchNorm1d(2), torch.nn.Dropout(0.5), torch.nn.Linear(2, 1)

    def forward(self, inputs, lengths):
        return self.head(self.dropout(self.norm(inputs["a"].mean(1))))


def linear(seed=0):
    torch.manual_seed(seed)
    return Normed()


def numbers(count, seed=0):
    rng = np.random.default_rng(seed)
    x = rng.normal(size=(count, 3, 2))
    return SequenceDataset.from_arrays({"a": x}, x.mean(1) @ [1.0, -2.0])


def test_a_last_batch_of_one_joins_the_one_before_it():
    fit(linear(), numbers(65), numbers(10, 1), batch_size=32, epochs=1)  # batch norm cannot train on one sample
    assert sorted(len(batch["ids"]) for batch in data_loader(numbers(65), 32)) == [32, 33]
    assert [len(batch["ids"]) for batch in data_loader(numbers(65), 32, shuffle=False)] == [32, 32, 1]
    assert [len(batch["ids"]) for batch in data_loader(numbers(3), 1)] == [1, 1, 1]


def test_an_optimizer_with_a_closure_trains():
    train, valid = numbers(40), numbers(20, 1)
    model = torch.nn.Sequential()
    model.head = torch.nn.Linear(2, 1)
    model.forward = lambda inputs, lengths: model.head(inputs["a"].mean(1))
    found = fit(model, train, valid, batch_size=40, epochs=8, optimizer=torch.optim.LBFGS, loss=squared)
    assert found.best_loss < 1e-6  # a linear model, which LBFGS solves
    torch.testing.assert_close(model.head.weight.detach(), torch.tensor([[1.0, -2.0]]), atol=1e-3, rtol=0)


def squared(output, labels):
    return (output.squeeze(-1) - labels).square().mean()


def test_an_optimizer_with_modes_is_told_of_them():
    seen = []

    class Modes(torch.optim.SGD):
        def train(self):
            seen.append("train")

        def eval(self):
            seen.append("eval")

        def step(self, closure=None):
            seen.append("step")
            return super().step(closure)

    fit(linear(), numbers(8), numbers(8, 1), batch_size=8, epochs=2, optimizer=lambda p: Modes(p, 0.1))
    assert seen == ["train", "step", "eval"] * 2


def test_complex_parameters_train():
    class Complex(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.weight = torch.nn.Parameter(torch.ones(2, dtype=torch.complex64))

        def forward(self, inputs, lengths):
            return (inputs["a"].mean(1) * self.weight).sum(1, keepdim=True).real

    model = Complex()
    fit(model, numbers(20), numbers(10, 1), epochs=2)
    assert not torch.equal(model.weight.detach(), torch.ones(2, dtype=torch.complex64))


@pytest.mark.parametrize("seed", [np.int64(3), 2**62, 2**70])
def test_seeds_of_any_size(seed):
    found = [fit(linear(), numbers(20), numbers(10, 1), epochs=1, seed=seed).history[0]["train_loss"] for _ in range(2)]
    assert found[0] == found[1]
    if seed == 3:
        assert found[0] == fit(linear(), numbers(20), numbers(10, 1), epochs=1, seed=3).history[0]["train_loss"]


def test_predictions_leave_the_mode_of_every_module():
    model = linear().train()
    model.norm.eval()
    predict(model, numbers(5))
    assert [module.training for module in (model, model.norm, model.dropout)] == [True, False, True]
    fit(model, numbers(8), numbers(8, 1), epochs=1)
    assert not any(module.training for module in model.modules())


@pytest.mark.parametrize("returned", [lambda x: x.mean(), lambda x: x.flatten(0, 1), lambda x: x[:1]])
def test_a_model_must_return_one_row_per_sample(returned):
    model = linear()
    model.forward = lambda inputs, lengths: returned(inputs["a"])
    with pytest.raises(DataError, match=r"the model returned an output of shape \(.*\) for 5 samples: it must return one row"):
        predict(model, numbers(5))


def test_a_table_that_grows_in_validation_is_trained_on_later():
    class Grows(Normed):
        table = torch.full((0, 1), 0.5)

        def forward(self, inputs, lengths):
            steps = inputs["a"].shape[1]
            if len(self.table) < steps:
                self.table = torch.full((steps, 1), 0.5)
            return (self.head(inputs["a"]) * self.table[:steps]).mean(1)

    class Ready(Grows):
        table = torch.full((5, 1), 0.5)

    rng = np.random.default_rng(0)
    longer = SequenceDataset.from_arrays({"a": rng.normal(size=(6, 5, 2))}, rng.normal(size=6))
    losses = []
    for kind in (Grows, Ready):
        torch.manual_seed(0)
        losses.append([record["train_loss"] for record in fit(kind(), numbers(8), longer, epochs=3).history])
    assert losses[0] == losses[1]


class Words(nn.Module):
    """Looks rows of a table up, with gradients for these alone."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.table, self.head = nn.Embedding(5, 3, sparse=True), nn.Linear(3, 1)

    def forward(self, inputs, lengths=None):
        return self.head(self.table(inputs["words"]).mean(1))


def test_sparse_gradients_train_or_are_refused_before_the_first_step():
    words = SequenceDataset.from_arrays({"words": [np.array([i % 5, 1]) for i in range(20)]}, np.arange(20.0))
    dense, sparse = Words(), Words()
    dense.table.sparse = False
    for model in (dense, sparse):
        fit(model, words, words, epochs=2, optimizer=lambda parameters: torch.optim.SGD(parameters, 0.1))
    torch.testing.assert_close(sparse.state_dict(), dense.state_dict())
    assert not torch.equal(sparse.table.weight, Words().table.weight)
    for options, message in (
        ({}, "the layer 'table' has sparse gradients, which Adam does not take: pass optimizer="),
        ({"optimizer": lambda p: torch.optim.SGD(p, 0.1), "gradient_clip": 1.0}, "which gradient_clip= does not take"),
    ):
        with pytest.raises(DataError, match=message):
            fit(Words(), words, words, **options)


class Halves(nn.Module):
    """Two modalities of sizes that nobody declares."""

    def __init__(self):
        super().__init__()
        self.layers = nn.ModuleDict({"a": nn.Linear(3, 4), "b": nn.Linear(2, 4)})

    def encode(self, inputs):
        return {name: torch.tanh(layer(inputs[name])) for name, layer in self.layers.items()}

    def fuse(self, encodings):
        return sum(r.mean((1, 2)) for r in encodings.values()).unsqueeze(1)


def test_fit_builds_the_feedback_of_a_latch_of_unknown_sizes():
    rng = np.random.default_rng(0)
    both = SequenceDataset.from_arrays(
        {"a": rng.normal(size=(12, 4, 3)), "b": rng.normal(size=(12, 4, 2))}, rng.normal(size=12)
    )
    found = {}
    for name, example in (("unknown", None), ("known", both.batch([0, 1]).inputs)):
        torch.manual_seed(0)
        latch = TopDownLatch(Halves(), "linear", example_inputs=example)
        fit(latch, both, both, epochs=2, batch_size=4, learning_rate=0.01)
        found[name] = latch.state_dict()
    assert all(torch.equal(value, found["known"][name]) for name, value in found["unknown"].items())
    assert found["unknown"]["feedback.a.b.weight"].abs().max() > 0.001  # it has learned from zero


CHOICES = {"least": 0.5}


def chosen(labels):
    return lambda output: (output - labels).abs().clamp(min=CHOICES["least"])


def test_fingerprints_see_constants_and_names_of_inner_functions(monkeypatch):
    def in_two(x):
        return x in {1, 2}

    def in_three(x):
        return x in {1, 3}

    assert named(in_two).split()[-1] != named(in_three).split()[-1]
    before = named(chosen)
    assert named(chosen) == before
    monkeypatch.setitem(CHOICES, "least", 0.25)
    assert named(chosen) != before


def test_a_scaled_backbone_may_take_no_lengths_and_wrap_a_model():
    class Plain(nn.Module):
        def __init__(self):
            super().__init__()
            self.a, self.b = nn.Linear(3, 4), nn.Linear(2, 4)

        def encode(self, inputs):
            return {name: getattr(self, name)(x) for name, x in inputs.items()}

        def fuse(self, encodings):
            return sum(r.mean((1, 2)) for r in encodings.values()).unsqueeze(1)

        def forward(self, a, b):
            return self.fuse({"a": self.a(a), "b": self.b(b)})

    inputs, lengths = {"a": torch.ones(2, 5, 3), "b": torch.ones(2, 5, 2)}, torch.tensor([5, 3])
    backbone = Plain()
    latch = TopDownLatch(ScaledOutput(backbone, [100.0], [10.0]), "linear", example_inputs=inputs)
    expected = 100.0 + 10.0 * backbone.fuse(backbone.encode(inputs))
    torch.testing.assert_close(latch(inputs, lengths), expected)
    hooked = ScaledOutput(HookedBackbone(Plain(), {"a": "a", "b": "b"}), [100.0], [10.0])
    at_site = TopDownLatch(hooked, "linear", sites={"a": "a"}, example_inputs=inputs)
    assert list(at_site.masks(inputs)) == ["a"]


def test_masks_of_leaves_every_module_as_it_was():
    class Rotary(LSTMBackbone):
        angles = None

        def encode(self, inputs, lengths=None):
            self.angles = torch.ones(1) if self.angles is None else self.angles
            return super().encode({k: x * self.angles for k, x in inputs.items()}, lengths)

    latch = TopDownLatch(Rotary({"a": 3, "b": 2}, hidden_size=4), "linear")
    latch.backbone.encoders["a"].eval()
    arrays = {"a": np.ones((4, 5, 3)), "b": np.ones((4, 5, 2))}
    for _ in masks_of(latch, SequenceDataset.from_arrays(arrays)):
        pass
    assert latch.training
    assert not latch.backbone.encoders["a"].training
    x = {name: torch.ones(1, 5, size, requires_grad=True) for name, size in latch.backbone.input_sizes.items()}
    latch(x).sum().backward()  # what was cached is no tensor of inference mode
    assert x["a"].grad.abs().sum() > 0


def test_classes_are_weighted_by_number():
    labels = data(40, classes=True)
    with pytest.raises(DataError, match="name a class by its number"):
        fit(Mean(2), labels, labels, loss="cross_entropy", epochs=1, class_weight={"pos": 2.0})
