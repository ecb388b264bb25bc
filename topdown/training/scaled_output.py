"""Wraps a regression model to learn standardized targets."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, cast

import torch
from torch import Tensor, nn

from topdown.backbone import lengths_keyword, takes_lengths, user_model
from topdown.batch import Inputs
from topdown.datasets.data import SequenceDataset
from topdown.datasets.errors import DataError
from topdown.datasets.precision import dtype_for
from topdown.sequence import Lengths
from topdown.training.losses import prediction_of


class ScaledOutput(nn.Module):
    r"""Wraps a regression model, or its backbone: :math:`y = \mu + \sigma \, \mathrm{backbone}(i)`.

    An untrained network predicts numbers near 0, and Adam moves its weights in steps of the learning rate: targets near 250,000
    would take more epochs than there are. With mean :math:`\mu` and deviation :math:`\sigma` of the training targets it begins
    at their mean. Predictions, metrics and a user-defined loss are in the units of the labels. A named loss is in deviations,
    so that all targets have equal weight, whatever their scale. Both numbers are in the state dict. Where float32
    would round the mean, as that of times in seconds, they and the predictions are float64.

    Args:
        backbone: Any model; inside of a latch, one with `encode` and `fuse`.
        mean: Mean of each output, of shape (K,).
        deviation: Standard deviation of each output, of shape (K,).

    Example:
        >>> from topdown.adapters import LSTMBackbone
        >>> model = ScaledOutput(LSTMBackbone({"a": 2, "b": 3}, hidden_size=4), [250_000.0], [50_000.0]).eval()
        >>> output = model({"a": torch.zeros(1, 5, 2), "b": torch.zeros(1, 5, 3)})
        >>> 100_000 < float(output.detach()) < 400_000
        True
    """

    mean: Tensor
    deviation: Tensor

    def __init__(self, backbone: nn.Module, mean: Sequence[float], deviation: Sequence[float]) -> None:
        super().__init__()
        self.backbone = backbone
        shift, scale = (torch.tensor([*values], dtype=torch.float64) for values in (mean, deviation))
        dtype = dtype_for(shift, scale)
        self.register_buffer("mean", shift.to(dtype))
        self.register_buffer("deviation", scale.to(dtype))

    @property
    def input_sizes(self) -> Mapping[str, int]:
        """Features of each modality."""
        return cast(Mapping[str, int], self.backbone.input_sizes)

    @property
    def encoding_sizes(self) -> Mapping[str, int]:
        """Size of the encodings of each modality."""
        return cast(Mapping[str, int], self.backbone.encoding_sizes)

    @property
    def uses_lengths(self) -> bool:
        """Whether the backbone takes lengths."""
        backbone = cast(Any, self.backbone)
        takes = takes_lengths(backbone.encode), takes_lengths(backbone.fuse)
        return bool(getattr(backbone, "uses_lengths", takes != ("never", "never")))

    @property
    def user_model(self) -> nn.Module:
        """The model to which the paths of sites are relative."""
        return user_model(self.backbone)

    def standardized(self, values: Tensor) -> Tensor:
        """Returns targets, or predictions of them, in deviations from their mean."""
        return (values - self.mean.to(values.device)) / self.deviation.to(values.device)

    def encode(self, inputs: Inputs, lengths: Lengths = None) -> Any:
        """Encodes each modality by itself, as the backbone does."""
        encode = cast(Any, self.backbone).encode
        return encode(inputs, **lengths_keyword(lengths, takes_lengths(encode)))

    def fuse(self, encodings: Mapping[str, Any], lengths: Lengths = None) -> Tensor:
        """Predicts from all encodings, in the units of the targets, (B, K)."""
        fuse = cast(Any, self.backbone).fuse
        return self.mean + self.deviation * prediction_of(fuse(encodings, **lengths_keyword(lengths, takes_lengths(fuse))))

    def forward(self, *args: Any, **kwargs: Any) -> Tensor:
        """Calls the model with the same arguments, and returns its prediction in the units of the targets."""
        return self.mean + self.deviation * prediction_of(self.backbone(*args, **kwargs))


TargetMoments = tuple[list[float], list[float]]  # mean and standard deviation of each output


def target_moments(labels: Tensor) -> TargetMoments:
    """Returns mean and standard deviation of targets (N,) or (N, K) that are not missing; 1 for a deviation of 0.

    Example:
        >>> target_moments(torch.tensor([1.0, 3.0]))
        ([2.0], [1.0])
    """
    columns = labels.double().reshape(len(labels), -1)
    mean = columns.nanmean(0).nan_to_num()
    deviation = (columns - mean).square().nanmean(0).sqrt()
    return mean.tolist(), torch.where(deviation > 0, deviation, 1.0).tolist()


def scaled_by_targets(model: nn.Module, train: SequenceDataset) -> ScaledOutput:
    """Wraps a model, with mean and standard deviation of the training targets.

    Raises:
        DataError: if the labels are not real numbers.
    """
    if train.labels is None or not train.labels.is_floating_point():
        raise DataError("standardize_targets is for labels that are real numbers; leave it out for classes")
    return ScaledOutput(model, *target_moments(train.labels))
