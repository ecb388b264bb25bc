"""A latch around a HookedBackbone is called as the model in it."""

from __future__ import annotations

import copy
import inspect
import pickle

import pytest
import torch
from torch import nn

from topdown import Site, TopDownLatch
from topdown.adapters import HookedBackbone
from topdown.adapters.called_as_model import bind


class Video(nn.Module):
    """A model of one input called `inputs`, with channels first."""

    def __init__(self):
        super().__init__()
        self.stem, self.body, self.head = nn.Conv3d(3, 4, 1), nn.Conv3d(4, 4, 1), nn.Linear(4, 2)

    def forward(self, inputs, scale=1.0):
        return scale * self.head(self.body(self.stem(inputs)).mean((2, 3, 4)))


class OfMapping(nn.Module):
    """A model of one mapping."""

    def __init__(self):
        super().__init__()
        self.body, self.head = nn.Linear(3, 4), nn.Linear(4, 2)

    def forward(self, batch):
        return self.head(self.body(batch["x"]).mean(1))


class Subclass(TopDownLatch):
    """A latch of the user's own class."""


def of_video(kind=TopDownLatch):
    torch.manual_seed(0)
    sites = {"video": Site("stem", "b d t h w")}
    latch = kind(HookedBackbone(Video(), {"video": Site("body", "b d t h w")}), "linear", sites=sites, start="random")
    latch(X)
    return latch.eval()


X = torch.randn(2, 3, 2, 4, 4, generator=torch.Generator().manual_seed(0))


def test_arguments_are_those_of_the_model():
    latch = of_video()
    expected = latch({"inputs": X})
    for output in (latch(X), latch(inputs=X), latch(X, 1.0), latch(X, scale=1.0), latch({"inputs": X, "scale": 1.0})):
        assert torch.equal(output, expected)
    assert torch.equal(latch(X, 2.0), 2 * expected)
    assert torch.equal(latch.masks(X)["video"], latch.masks({"inputs": X})["video"])
    assert torch.equal(latch.trace(inputs=X).output, expected)
    with latch.disabled():
        assert torch.equal(latch(X, 2.0), latch.backbone.model(X, 2.0))


def test_a_model_of_one_mapping_gets_it():
    torch.manual_seed(0)
    latch = TopDownLatch(HookedBackbone(OfMapping(), {"x": "body"}), "linear", sites={"x": "body"})
    batch = {"x": torch.randn(2, 5, 3)}
    assert torch.equal(latch(batch), latch(batch=batch))
    assert latch.masks(batch)["x"].shape == (2, 5, 4)


@pytest.mark.parametrize("kind", [TopDownLatch, Subclass])
def test_copies_are_latches_of_the_same_class(kind):
    latch = of_video(kind)
    for other in (copy.deepcopy(latch), pickle.loads(pickle.dumps(latch))):
        assert type(other) is type(latch)
        assert isinstance(other, kind)
        assert torch.equal(other(X, 2.0), latch(X, 2.0))
    assert type(latch).__name__ == kind.__name__


def test_the_signature_is_that_of_the_model():
    latch = of_video()
    assert list(inspect.signature(latch.forward).parameters) == ["inputs", "scale"]
    assert list(inspect.signature(type(latch).forward).parameters) == ["self", "inputs", "scale"]
    assert type(of_video()) is type(latch)
    assert type(TopDownLatch(HookedBackbone(OfMapping(), {"x": "body"}), sites={"x": "body"})) is not type(latch)


@pytest.mark.parametrize(
    ("args", "kwargs", "message"),
    [
        ((X, 1.0, 2), {}, r"the model takes \(inputs, scale=1.0\), but got 3 positional arguments: pass each by its name"),
        ((X,), {"inputs": X}, "'inputs' is there twice, as a positional argument and by name: pass it once"),
    ],
)
def test_wrong_arguments_are_named(args, kwargs, message):
    with pytest.raises(TypeError, match=message):
        of_video()(*args, **kwargs)


def test_lengths_are_found_in_any_form():
    class Model(nn.Module):
        def forward(self, x, lengths=None): ...

    class Free(nn.Module):
        def forward(self, **kwargs): ...

    assert bind(Model(), (1, 2), {}) == ({"x": 1}, 2)
    assert bind(Model(), ({"x": 1}, 2), {}) == ({"x": 1}, 2)
    assert bind(Model(), (), {"x": 1, "lengths": 2}) == ({"x": 1}, 2)
    assert bind(Free(), ({"x": 1},), {"lengths": 2}) == ({"x": 1}, 2)


class Channels(nn.Module):
    """A convolution over time, whose input has channels first."""

    def __init__(self):
        super().__init__()
        self.conv, self.head = nn.Conv1d(13, 8, 3, padding=1), nn.Linear(8, 2)

    def forward(self, x):
        return self.head(self.conv(x).mean(2))


def test_channels_first_get_a_hint_and_a_site():
    encodings = {"x": Site("conv", "b d t")}
    hint = r"if time is last, mask the first layer that reads it: sites=\{name: Site\(path, 'b d t', at='input'\)\}"
    with pytest.raises(
        ValueError, match=rf"'x' has 80 steps but 'x' has 13: .*the first is an encoding, the second a site.*{hint}"
    ):
        TopDownLatch(HookedBackbone(Channels(), encodings))(torch.randn(3, 13, 80))
    for path in ("conv", ""):
        latch = TopDownLatch(HookedBackbone(Channels(), encodings), "linear", sites={"x": Site(path, "b d t", at="input")})
        for steps in (80, 96):
            assert latch.masks(torch.randn(3, 13, steps))["x"].shape == (3, 13, steps)


def test_another_number_of_features_gets_the_hint_too():
    latch = TopDownLatch(HookedBackbone(Channels(), {"x": Site("conv", "b d t")}), align="interpolate")
    latch(torch.randn(3, 13, 80))
    with pytest.raises(ValueError, match=r"'x' has 96 features, but the feedback was built for 80: if time is last"):
        latch(torch.randn(3, 13, 96))


def test_one_step_more_may_be_a_class_token():
    class WithToken(nn.Module):
        def __init__(self):
            super().__init__()
            self.patches, self.body, self.head = nn.Linear(6, 4), nn.Linear(4, 4), nn.Linear(4, 2)

        def forward(self, image):
            x = self.patches(image)
            return self.head(self.body(torch.cat([x.mean(1, keepdim=True), x], 1))[:, 0])

    latch = TopDownLatch(HookedBackbone(WithToken(), {"image": "body"}), sites={"image": "patches"})
    with pytest.raises(ValueError, match=r"'image' has 5 steps but 'image' has 4: .* one step more may be a class token"):
        latch(torch.randn(2, 4, 6))


class WithLabels(nn.Module):
    """A model with an argument that may be left out."""

    def __init__(self):
        super().__init__()
        self.a, self.e = nn.Linear(3, 4), nn.Linear(4, 4)

    def forward(self, x, labels=None):
        return self.e(self.a(x))


def test_arguments_that_are_none_are_no_modalities():
    for arguments in ((torch.ones(2, 5, 3), None), (torch.ones(2, 5, 3),)):
        latch = TopDownLatch(HookedBackbone(WithLabels(), {"p": "e"}), sites={"p": "a"})
        assert latch(*arguments).shape == (2, 5, 4)
    assert latch(torch.ones(2, 5, 3), labels=None).shape == (2, 5, 4)


def test_a_class_with_a_constructor_of_its_own_is_called_as_the_model():
    class Mine(TopDownLatch):
        def __init__(self, model):
            super().__init__(HookedBackbone(model, {"p": "e"}), sites={"p": "a"})

    latch = Mine(WithLabels())
    assert latch(torch.ones(2, 5, 3)).shape == (2, 5, 4)
    assert isinstance(copy.deepcopy(latch), Mine)


def test_a_forward_of_ones_own_stays():
    class Mine(TopDownLatch):
        def forward(self, x, scale):
            return scale * super().forward(x=x)

    latch = Mine(HookedBackbone(WithLabels(), {"p": "e"}), sites={"p": "a"})
    x = torch.ones(2, 5, 3)
    assert torch.equal(latch(x, 2.0), 2.0 * latch.backbone.model(x))
    assert type(latch) is Mine


def test_odd_signatures_can_be_built():
    class PositionalOnly(WithLabels):
        def forward(self, x, /, y=None):
            return super().forward(x)

    class Star(WithLabels):
        def forward(self, *xs):
            return super().forward(xs[0])

    TopDownLatch(HookedBackbone(PositionalOnly(), {"p": "e"}), sites={"p": "a"})
    latch = TopDownLatch(HookedBackbone(Star(), {"p": "e"}), sites={"p": "a"})
    with pytest.raises(TypeError, match=r"the model takes \(\*xs\), but got 1 positional arguments: .* forward names all"):
        latch(torch.ones(2, 5, 3))
