"""Computes the outputs of a model, and the masks of a latch, for a whole data set, batch by batch."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import torch
from torch import Tensor, nn

from topdown.datasets.batch import Batch
from topdown.datasets.data import SequenceDataset
from topdown.datasets.errors import DataError, check_whole_numbers
from topdown.latch import TopDownLatch
from topdown.training.arguments import device_named
from topdown.training.distributed import rank, total, world_size
from topdown.training.losses import prediction_of


def device_of(model: nn.Module, device: str | torch.device | None = None) -> torch.device:
    """Returns a device, by default that of the first parameter of a model.

    Example:
        >>> device_of(nn.Linear(1, 1)), device_of(nn.Linear(1, 1), "meta")
        (device(type='cpu'), device(type='meta'))
    """
    default = next((p.device for p in model.parameters()), torch.device("cpu"))
    return default if device is None else device_named(device)


def predict(
    model: nn.Module, data: SequenceDataset, *, batch_size: int = 32, device: str | torch.device | None = None
) -> Tensor:
    """Returns the outputs of a model in evaluation mode for all samples, in their order, on the CPU.

    Each process of a group predicts a share of the batches, and all return everything. Every module keeps its mode.

    Args:
        model: Module called as model(inputs, lengths).
        data: Samples to predict.
        batch_size: Samples of a batch. (Default: 32)
        device: Device to predict on, to which the model is moved. (Default: the model's own)

    Returns:
        Outputs of shape (N, ...).

    Raises:
        DataError: if there are no samples, or the model does not return one row per sample.
    """
    check_whole_numbers({"batch_size": batch_size}, 1)
    place = device_of(model, device)
    model.to(place)
    order = data.batch_lengths().argsort(stable=True)
    outputs: Tensor | None = None
    with torch.no_grad(), evaluation_mode(model):
        for number, indices in enumerate(order.split(batch_size)):
            mine = number % world_size() == rank()
            if mine or outputs is None:  # every process needs the shape of an output
                batch = data.batch(indices).to(place)
                prediction = prediction_of(model(batch.inputs, batch.lengths))
                prediction = prediction if prediction.dtype == torch.float64 else prediction.float()
                if prediction.dim() == 0 or len(prediction) != len(indices):
                    what = f"an output of shape {tuple(prediction.shape)} for {len(indices)} samples"
                    raise DataError(f"the model returned {what}: it must return one row per sample, as in (B, 1)")
                outputs = prediction.new_zeros(len(data), *prediction.shape[1:]) if outputs is None else outputs
                if mine:
                    outputs[indices.to(prediction.device)] = prediction
    if outputs is None:
        raise DataError("there are no samples to predict")
    return total(outputs).cpu()


@contextlib.contextmanager
def evaluation_mode(model: nn.Module) -> Iterator[None]:
    """Context manager that sets all modules to evaluation mode, and restores the mode of each on exit.

    Example:
        >>> layer = nn.Sequential(nn.Dropout(), nn.Dropout().eval())
        >>> with evaluation_mode(layer):
        ...     [module.training for module in layer]
        [False, False]
        >>> [module.training for module in layer]
        [True, False]
    """
    training = {module: module.training for module in model.modules()}
    model.eval()
    try:
        yield
    finally:
        model.train(training[model])  # some layers do more than set the attribute
        for module, mode in training.items():
            module.training = mode


def masks_of(
    latch: TopDownLatch, data: SequenceDataset, *, batch_size: int = 32, device: str | torch.device | None = None
) -> Iterator[tuple[Tensor, Batch, dict[str, Tensor]]]:
    """Yields indices, batch and masks, batch by batch, in evaluation mode.

    Args:
        latch: Latch that computes the masks.
        data: Samples.
        batch_size: Samples of a batch, which are of similar length. (Default: 32)
        device: Device to compute on, to which the latch is moved. (Default: its own)
    """
    place = device_of(latch, device)
    latch.to(place)
    for indices in data.batch_lengths().argsort(stable=True).split(batch_size):
        batch = data.batch(indices).to(place)
        with torch.no_grad(), evaluation_mode(latch):
            masks = latch.masks(batch.inputs, batch.lengths)
        yield indices, batch, masks
