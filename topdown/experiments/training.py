"""The paper's protocol: train, validate, halve the learning rate, stop early, test the best epoch."""

from __future__ import annotations

import hashlib
import json
import math
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Literal, NamedTuple, cast

import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader

from topdown.datasets.batching import BucketedSampler, data_loader
from topdown.datasets.data import Batch, SequenceDataset
from topdown.datasets.errors import DataError
from topdown.experiments.distributed import parallel, rank, total, wait, world_size
from topdown.files import write_file

Loss = Literal["mae", "cross_entropy"]


def mean_absolute_error(output: Tensor, labels: Tensor) -> Tensor:
    """Compares predictions (B, 1) with labels (B,), or (B, K) with (B, K).

    Raises:
        DataError: if there are not as many of one as of the other.
    """
    if output.numel() != labels.numel():
        raise DataError(
            f"the model returns {tuple(output.shape)} for labels of shape {tuple(labels.shape)}: make it with output_size="
            f"{labels[0].numel()}, or use loss='cross_entropy' for classes"
        )
    return nn.functional.l1_loss(output.view_as(labels), labels)


def cross_entropy(output: Tensor, labels: Tensor) -> Tensor:
    """Compares logits (B, C) with classes (B,).

    Raises:
        DataError: if logits are not of this shape, or a class has none.
    """
    if output.dim() != 2 or labels.dim() != 1:
        raise DataError(
            f"the model returns {tuple(output.shape)} for labels of shape {tuple(labels.shape)}: expected (B, C) and (B,)"
        )
    try:
        return nn.functional.cross_entropy(output, labels)
    except IndexError:
        found = f"there is a class {int(labels.max())} but the model returns logits for {output.shape[1]} classes"
        raise DataError(f"{found}: make it with output_size={int(labels.max()) + 1} or more") from None


LOSSES: dict[str, Callable[[Tensor, Tensor], Tensor]] = {"mae": mean_absolute_error, "cross_entropy": cross_entropy}


class Fit(NamedTuple):
    """Course of a training.

    Args:
        best_epoch: Epoch with the lowest validation loss, from 1; the model has its weights.
        best_loss: Lowest validation loss.
        history: Records of the epochs: epoch, train_loss, valid_loss, learning_rate, seconds.
    """

    best_epoch: int
    best_loss: float
    history: list[dict[str, float]]


class _Progress(NamedTuple):
    """State of a training between two epochs, but for what model, optimizer and scheduler hold."""

    best_epoch: int
    best_loss: float
    best_weights: dict[str, Tensor]
    history: list[dict[str, float]]

    def after(self, record: dict[str, float], model: nn.Module) -> _Progress:
        history = [*self.history, record]
        if record["valid_loss"] < self.best_loss:
            return _Progress(int(record["epoch"]), record["valid_loss"], _copy(model), history)
        return self._replace(history=history)


def fit(
    model: nn.Module,
    train: SequenceDataset,
    valid: SequenceDataset,
    *,
    seed: int = 0,
    loss: Loss = "mae",
    learning_rate: float = 5e-4,
    batch_size: int = 32,
    epochs: int = 100,
    decay_after: int = 2,
    decay: float = 0.5,
    gradient_clip: float | None = None,
    patience: int = 10,
    device: str | torch.device | None = None,
    workers: int = 0,
    checkpoint: str | Path | None = None,
    on_epoch: Callable[[dict[str, float]], None] | None = None,
) -> Fit:
    """Trains a model and leaves it with the weights of its best epoch.

    Adam; the learning rate is halved (`decay`) when the validation loss has not fallen for `decay_after` epochs (looked at
    once an epoch, and at nothing else); training stops when it has not fallen for `patience` epochs. Section 3 of the paper,
    but for batch size and epochs, which are those of its public code.

    The order of the batches depends on `seed` and the epoch alone, so that different models see the same batches. Random
    numbers of the caller are left as they were.

    In a process of a group of `torch.distributed`, each process takes its share of every batch, gradients are averaged over all
    samples of the batch, and the losses are those of all processes: without dropout the same, step by step, as in one process.
    Every process returns the same; process 0 alone writes the checkpoint, with which any number of processes goes on.

    Args:
        model: Module called as model(inputs, lengths); returns (B, 1) for "mae", or logits (B, C) for "cross_entropy".
        train: Samples to learn from.
        valid: Samples to choose by.
        seed: Random seed of batches and dropout. (Default: 0)
        loss: Name of the loss: "mae", or "cross_entropy" for integer labels. (Default: "mae", Section 3)
        learning_rate: Learning rate of Adam. (Default: 5e-4, Section 3)
        batch_size: Samples of a batch, of all processes together. (Default: 32, the public code)
        epochs: Largest number of epochs. (Default: 100, the public code)
        decay_after: Epochs without a fall before the learning rate decays. (Default: 2, Section 3)
        decay: Factor of the learning rate then. (Default: 0.5, Section 3)
        gradient_clip: Largest norm of all gradients together; None for any. (Default: None, the public code)
        patience: Epochs without a fall before training stops. (Default: 10, Section 3)
        device: Device to train on, to which the model is moved. (Default: the model's own)
        workers: Processes that make batches: see :func:`topdown.datasets.data_loader`; they change no number. (Default: 0)
        checkpoint: File that is written after every epoch; if it is there already, training goes on from it, and ends with
            the same weights as if it had never stopped. It must have been written with the same settings. (Default: none)
        on_epoch: Function that is called with the record of each epoch.

    Returns:
        Best epoch, and history.

    Raises:
        DataError: if labels do not fit the loss, splits or the model differ in modalities, the loss is no longer finite, or the
            checkpoint is of another training.
    """
    _check(model, train, valid, loss)
    path = None if checkpoint is None else Path(checkpoint)
    settings = {
        "data": [_fingerprint(train), _fingerprint(valid)],
        "seed": seed,
        "loss": loss,
        "learning_rate": learning_rate,
        "batch_size": batch_size,
        "decay_after": decay_after,
        "gradient_clip": gradient_clip,
        "decay": decay,
        "samples": [len(train), len(valid)],
    }
    place = device_of(model, device)
    with torch.random.fork_rng(devices=[place] if place.type == "cuda" else []):
        torch.manual_seed(seed + 1_000_003)  # not the seed of the initial weights
        model.to(place)
        optimizer = torch.optim.Adam(model.parameters(), lr=learning_rate, fused=True)
        scheduler = torch.optim.lr_scheduler.ReduceLROnPlateau(
            optimizer, factor=decay, patience=decay_after - 1, threshold=0.0, threshold_mode="abs"
        )
        parts = {"model": model, "optimizer": optimizer, "scheduler": scheduler}
        progress = _Progress(0, float("inf"), _copy(model), [])
        if path is not None and path.exists():
            progress = _resume(path, parts, settings, place)
        replica = parallel(model)
        loader = data_loader(train, batch_size, seed=seed, workers=workers, pin_memory=place.type == "cuda")
        while len(progress.history) < epochs and len(progress.history) - progress.best_epoch < patience:
            start = time.perf_counter()
            epoch = len(progress.history) + 1
            if rank():  # another dropout in each process
                torch.manual_seed((seed * 1_000_003 + epoch) * 1_000_003 + rank())
            record: dict[str, float] = {"epoch": epoch}
            record["train_loss"] = _train_epoch(replica, optimizer, loader, LOSSES[loss], epoch, gradient_clip)
            outputs = predict(model, valid, batch_size=batch_size)
            record["valid_loss"] = float(LOSSES[loss](outputs, valid.labels))
            _check_finite(record)
            record |= {"learning_rate": optimizer.param_groups[0]["lr"], "seconds": time.perf_counter() - start}
            scheduler.step(record["valid_loss"])
            progress = progress.after(record, model)
            if path is not None:
                _keep(path, parts, settings, progress, place)
            if on_epoch is not None:
                on_epoch(record)
        model.load_state_dict(progress.best_weights)
        return Fit(progress.best_epoch, progress.best_loss, progress.history)


def _keep(path: Path, parts: Mapping[str, Any], settings: object, progress: _Progress, device: torch.device) -> None:
    """Writes everything that a training needs to go on."""
    state = {name: part.state_dict() for name, part in parts.items()}
    state |= {"settings": settings, **progress._asdict(), "random": _random_state(device)}
    if rank() == 0:
        save_checkpoint(state, path)
    wait()


def _resume(path: Path, parts: Mapping[str, Any], settings: object, device: torch.device) -> _Progress:
    """Takes up a training where it was left.

    Raises:
        DataError: if it was another training.
    """
    state = load_checkpoint(path, device)
    if state.get("settings") != settings:
        raise DataError(f"{path}: of a training with {state.get('settings')}, not {settings}; delete it to train anew")
    try:
        parts["model"].load_state_dict(state["model"])
    except RuntimeError:
        raise DataError(f"{path}: of another model; delete it to train anew") from None
    parts["optimizer"].load_state_dict(state["optimizer"])
    parts["scheduler"].load_state_dict(state["scheduler"])
    _set_random_state(state["random"], device)
    return _Progress(*(state[name] for name in _Progress._fields))


def _check_finite(record: Mapping[str, float]) -> None:
    if not math.isfinite(record["train_loss"] + record["valid_loss"]):
        found = f"(train {record['train_loss']}, validation {record['valid_loss']})"
        remedy = "look for extreme values in the features, or lower the learning rate"
        raise DataError(f"the loss of epoch {record['epoch']:.0f} is not finite {found}; {remedy}")


def device_of(model: nn.Module, device: str | torch.device | None = None) -> torch.device:
    """Returns a device that was asked for, or that of the first parameter of a model.

    Example:
        >>> device_of(nn.Linear(1, 1)), device_of(nn.Linear(1, 1), "meta")
        (device(type='cpu'), device(type='meta'))
    """
    own = next((p.device for p in model.parameters()), torch.device("cpu"))
    return own if device is None else torch.device(device)


def predict(
    model: nn.Module, data: SequenceDataset, *, batch_size: int = 32, device: str | torch.device | None = None
) -> Tensor:
    """Returns the outputs of a model in evaluation mode for all samples, in their order, on the CPU.

    Processes of a group take a share of the batches each, and all return everything.

    Args:
        model: Module called as model(inputs, lengths).
        data: Samples to predict.
        batch_size: Samples of a batch. (Default: 32)
        device: Device to predict on, to which the model is moved. (Default: the model's own)

    Returns:
        Outputs of shape (N, ...).

    Raises:
        DataError: if there are no samples.
    """
    place = device_of(model, device)
    model.eval().to(place)
    order = data.batch_lengths().argsort(stable=True)
    outputs: Tensor | None = None
    with torch.inference_mode():
        for number, indices in enumerate(order.split(batch_size)):
            mine = number % world_size() == rank()
            if mine or outputs is None:  # the first batch tells everyone the shape of an output
                batch = data.batch(indices).to(place)
                found = model(batch.inputs, batch.lengths).float()
                outputs = found.new_zeros(len(data), *found.shape[1:]) if outputs is None else outputs
                if mine:
                    outputs[indices.to(found.device)] = found
    if outputs is None:
        raise DataError("there are no samples to predict")
    return total(outputs.clone()).cpu()  # no inference tensor, so that anything may be done with it


def save_checkpoint(state: dict[str, Any], path: Path) -> None:
    """Writes a checkpoint that `torch.load(path, weights_only=True)` reads; the file is there whole or not at all."""
    write_file(path, lambda file: torch.save(state, file))


def load_checkpoint(path: Path, device: str | torch.device = "cpu") -> dict[str, Any]:
    """Reads a checkpoint without running code.

    Raises:
        DataError: if the file is damaged.
    """
    try:
        state: dict[str, Any] = torch.load(path, map_location=device, weights_only=True)
    except Exception as error:  # torch.load raises many kinds on a damaged file
        raise DataError(f"{path}: not a checkpoint ({type(error).__name__}); delete it to train anew") from None
    return state


def _train_epoch(
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
    loader: DataLoader[Batch],
    loss: Callable[[Tensor, Tensor], Tensor],
    epoch: int,
    gradient_clip: float | None,
) -> float:
    """Returns the mean loss over all samples, of all processes."""
    model.train()
    device = device_of(model)
    losses, count = torch.zeros((), device=device), 0
    sampler = cast(BucketedSampler, loader.batch_sampler)
    sampler.set_epoch(epoch)
    batches = sampler.batches()
    for batch, whole in zip(loader, batches, strict=True):
        batch = batch.to(device)
        optimizer.zero_grad(set_to_none=True)
        value = loss(model(batch.inputs, batch.lengths), batch.labels)
        # Processes average their gradients: each counts by its share of the batch, so that every sample counts alike.
        (value * (len(batch.labels) * world_size() / len(whole))).backward()
        if gradient_clip is not None:
            nn.utils.clip_grad_norm_(model.parameters(), gradient_clip)
        optimizer.step()
        losses += value.detach() * len(batch.labels)
        count += len(whole)
    return float(total(losses)) / count


def _check(model: nn.Module, train: SequenceDataset, valid: SequenceDataset, loss: str) -> None:
    """Checks what can be checked before the first step."""
    if loss not in LOSSES:
        raise DataError(f"loss={loss!r} is not known: use one of {list(LOSSES)}")
    if train.sizes != valid.sizes:
        raise DataError(f"the validation data has features {valid.sizes}, but the training data has {train.sizes}")
    sizes = getattr(model, "input_sizes", None)
    if isinstance(sizes, Mapping) and dict(sizes) != train.sizes:
        raise DataError(
            f"the model takes features {dict(sizes)}, but the data has {train.sizes}: make the model from data.sizes"
        )
    for data in (train, valid):
        whole = not data.labels.is_floating_point()
        if whole != (loss == "cross_entropy"):
            remedy = (
                "give them as floating point, or use loss='cross_entropy'" if whole else "give classes as integers 0, 1, 2 ..."
            )
            raise DataError(f"labels are {data.labels.dtype}, which is not for loss={loss!r}: {remedy}")
        if whole and int(data.labels.min()) < 0:
            raise DataError(f"a class is {int(data.labels.min())}: number classes from 0")


def _fingerprint(data: SequenceDataset) -> str:
    """Tells data sets apart by their labels, ids, sizes and lengths."""
    digest = hashlib.sha256(data.labels.numpy().tobytes())
    digest.update(json.dumps([data.ids, data.sizes]).encode())
    for lengths in data.lengths.values():
        digest.update(lengths.numpy().tobytes())
    return digest.hexdigest()[:16]


def _copy(model: nn.Module) -> dict[str, Tensor]:
    return {name: value.detach().clone() for name, value in model.state_dict().items()}


def _random_state(device: torch.device) -> list[Tensor]:
    return [torch.get_rng_state(), *([torch.cuda.get_rng_state(device)] if device.type == "cuda" else [])]


def _set_random_state(states: list[Tensor], device: torch.device) -> None:
    torch.set_rng_state(states[0].cpu())
    if device.type == "cuda":
        torch.cuda.set_rng_state(states[-1].cpu(), device)
