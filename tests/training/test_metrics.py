import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from sklearn.metrics import accuracy_score, f1_score

from topdown.experiments import sentiment_metrics
from topdown.training import classification_metrics

MMLATCH = {  # ours: theirs
    "mae": "mae",
    "corr": "corr",
    "acc7": "acc_7",
    "acc5": "acc_5",
    "acc2_non0": "bin_acc",
    "f1_non0": "f1",
    "acc2_has0": "bin_acc_pos",
    "f1_has0": "f1_pos",
    "acc2_neg0": "bin_acc_neg",
    "f1_neg0": "f1_neg",
}
MULT = {
    "mae": "MAE",
    "corr": "Correlation Coefficient",
    "acc7": "mult_acc_7",
    "acc5": "mult_acc_5",
    "acc2_non0": "Accuracy",
    "f1_non0": "F1 score",
}
# mae and corr are computed in float32 there
TOLERANCE = {"mae": 1e-6, "corr": 1e-6}


@pytest.mark.parametrize("data", ["a", "b"])
@pytest.mark.parametrize(("function", "names"), [("mmlatch.eval_mosei_senti", MMLATCH), ("mult.eval_mosei_senti", MULT)])
def test_public_codes(golden, data, function, names):
    file = golden("metrics")
    metrics = sentiment_metrics(file[f"{data}/preds"], file[f"{data}/labels"], f1_swapped=True)
    for ours, theirs in names.items():
        expected = float(file.arrays[f"{data}/{function}/exclude_zero=True/{theirs}"])
        assert metrics[ours] == pytest.approx(expected, abs=TOLERANCE.get(ours, 1e-9)), ours
    assert metrics["n"] == 200


def test_f1_the_usual_way_round(golden):
    file = golden("metrics")
    usual = sentiment_metrics(file["b/preds"], file["b/labels"])["f1_non0"]
    assert usual == pytest.approx(0.686849, abs=1e-6)  # measured with scikit-learn: golden/metrics.md


values = st.lists(st.tuples(*[st.integers(-8, 8)] * 2), min_size=1, max_size=20)


@given(values)
def test_binary_metrics_equal_scikit_learn(pairs):
    p, y = np.array(pairs).T / 2
    metrics = sentiment_metrics(p, y)
    for name, a, b in (("has0", p >= 0, y >= 0), ("neg0", p > 0, y > 0), ("non0", p[y != 0] > 0, y[y != 0] > 0)):
        if len(b):
            assert metrics[f"acc2_{name}"] == pytest.approx(accuracy_score(b, a))
            expected = f1_score(b, a, average="weighted", labels=np.unique(b), zero_division=0)
            assert metrics[f"f1_{name}"] == pytest.approx(expected)
        else:
            assert math.isnan(metrics[f"acc2_{name}"])
            assert math.isnan(metrics[f"f1_{name}"])
    if np.ptp(p) and np.ptp(y):
        assert metrics["corr"] == pytest.approx(np.corrcoef(p, y)[0, 1])
    else:
        assert metrics["corr"] == 0.0


@pytest.mark.parametrize("values", [[1e-200, 2e-200, 4e-200], [1e200, 2e200, 4e200], [1.0, 1.0, 1.0]])
def test_correlation_of_extreme_and_of_constant_values(values):
    expected = 0.0 if values[0] == values[1] else 1.0
    assert sentiment_metrics(values, [1.0, 2.0, 4.0])["corr"] == pytest.approx(expected)


def test_tensors_and_arrays_give_the_same():
    p, y = [0.5000000001, 2.0, 1e-50], [1.0, 2.0, 1.0]
    tensors = sentiment_metrics(torch.tensor(p, dtype=torch.float64), torch.tensor(y))
    assert tensors == sentiment_metrics(p, y)


def test_by_hand():
    metrics = sentiment_metrics(torch.tensor([[2.5], [-0.5], [3.7], [0.0]]), torch.tensor([[2.0], [1.0], [3.0], [0.0]]))
    assert metrics["mae"] == pytest.approx((0.5 + 1.5 + 0.7 + 0) / 4)
    assert metrics["acc7"] == 0.75  # 2.5 rounds to 2, -0.5 to 0 and not to 1, 3.7 is clipped to 3
    assert metrics["acc5"] == 0.75
    assert metrics["acc2_non0"] == pytest.approx(2 / 3)
    assert metrics["acc2_has0"] == 0.75
    assert metrics["acc2_neg0"] == 0.75


@pytest.mark.parametrize(
    ("p", "y", "message"),
    [
        ([], [], "there are no predictions"),
        ([1.0], [1.0, 2.0], "1 predictions but 2 labels"),
        ([1.0, float("nan")], [1.0, 2.0], "1 of 2 predictions are not finite"),
        ([1.0], [float("inf")], "1 of 1 labels are not finite"),
        ([[1.0, 2.0]], [[1.0, 2.0]], r"must have shape \(N,\) or \(N, 1\), got \(1, 2\)"),
    ],
)
def test_wrong_values_are_named(p, y, message):
    with pytest.raises(ValueError, match=message):
        sentiment_metrics(p, y)


@given(st.lists(st.tuples(*[st.integers(0, 3)] * 2), min_size=1, max_size=20))
def test_classification_equals_scikit_learn(pairs):
    p, y = np.array(pairs).T
    for given_ in (p, np.eye(4)[p]):
        metrics = classification_metrics(given_, y)
        assert metrics["acc"] == pytest.approx(accuracy_score(y, p))
        assert metrics["f1"] == pytest.approx(f1_score(y, p, average="weighted", labels=np.unique(y), zero_division=0))
        assert metrics["n"] == len(y)


def test_classification_needs_samples():
    with pytest.raises(ValueError, match="must be as many, at least one"):
        classification_metrics([], [])
    with pytest.raises(ValueError, match="a prediction is not finite"):
        classification_metrics([[0.0, float("nan")]], [1])
    with pytest.raises(ValueError, match=r"predictions have shape \(2, 1\)"):
        classification_metrics([[0.0], [1.0]], [0, 1])
