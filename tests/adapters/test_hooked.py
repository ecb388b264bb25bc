"""Models that nobody may edit: any signature of forward, any grid of a site, saved with all of the model."""

import pytest
import torch
from torch import nn

from topdown import Site, TopDownLatch
from topdown.adapters import HookedBackbone


class Clinic(nn.Module):
    """Takes its first argument by position alone."""

    def __init__(self):
        super().__init__()
        self.words, self.reader, self.chart, self.head = nn.Embedding(9, 4), nn.Linear(4, 4), nn.Linear(6, 4), nn.Linear(4, 2)

    def forward(self, ids, /, *, chart):
        return self.head(self.reader(self.words(ids)).mean(1) + self.chart(chart))


class Grids(nn.Module):
    """A picture whose first map is finer than its second."""

    def __init__(self):
        super().__init__()
        self.first, self.second = nn.Conv2d(3, 4, 3, padding=1), nn.Conv2d(4, 5, 3, stride=2)

    def forward(self, image):
        return self.second(self.first(image).relu()).mean((2, 3))


def clinic():
    torch.manual_seed(0)
    ids, chart = torch.randint(0, 9, (2, 5)), torch.randn(2, 6)
    backbone = HookedBackbone(Clinic(), {"text": "reader", "chart": "chart"})
    return TopDownLatch(backbone, "linear", sites={"text": "words"}, example_inputs={"ids": ids, "chart": chart}), ids, chart


def test_arguments_that_forward_takes_by_position_alone():
    latch, ids, chart = clinic()
    expected = latch.backbone.user_model(ids, chart=chart)
    assert torch.equal(latch(ids, chart=chart), expected)
    with torch.no_grad():
        latch.feedback["text"]["chart"].bias.fill_(1.0)
    assert not torch.equal(latch(ids, chart=chart), expected)


@pytest.mark.parametrize("size", [(9, 11), (24, 40), (7, 7)])
def test_masks_between_grids_begin_as_ones(size):
    torch.manual_seed(0)
    image = torch.randn(2, 3, *size)
    backbone = HookedBackbone(Grids(), {"image": Site("second", "b d h w")})
    sites = {"image": Site("first", "b d h w")}
    latch = TopDownLatch(backbone, "linear", sites=sites, align="interpolate", example_inputs={"image": image}).eval()
    assert latch.masks(image)["image"].unique().tolist() == [1.0]
    assert torch.equal(latch(image), latch.backbone.user_model(image))


def test_all_of_the_model_is_saved_under_its_own_path(tmp_path):
    pytest.importorskip("safetensors")
    latch, ids, chart = clinic()
    latch.save_pretrained(tmp_path, also=[""])  # and no warning of parameters that are not saved
    other, _, _ = clinic()
    for parameter in other.parameters():
        nn.init.zeros_(parameter)
    again = TopDownLatch.from_pretrained(other.backbone, tmp_path)
    assert torch.equal(again(ids, chart=chart), latch(ids, chart=chart))
