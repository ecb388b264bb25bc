"""The paper's protocol: train, validate, halve the learning rate, stop early, test the best epoch."""

from __future__ import annotations

import hashlib
import json
import math
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, NamedTuple, cast

import torch
from torch import Tensor, nn

from topdown.datasets.batching import BatchLoader, BucketedSampler, data_loader
from topdown.datasets.data import SequenceDataset
from topdown.datasets.errors import DataError
from topdown.experiments.distributed import parallel, rank, total, wait, world_size
from topdown.files import write_file

Loss = Literal["mae", "cross_entropy", "bce"] | Callable[[Any, Tensor], Tensor]
MakeOptimizer = Callable[[Iterable[nn.Parameter]], torch.optim.Optimizer]
MakeScheduler = Callable[[torch.optim.Optimizer], Any]


def mean_absolute_error(output: Tensor, labels: Tensor) -> Tensor:
    """Compares predictions (B, 1) with labels (B,), or (B, K) with (B, K).

    Raises:
        DataError: if there are not as many of one as of the other.
    """
    return nn.functional.l1_loss(_like_labels(output, labels), labels)


def binary_cross_entropy(output: Tensor, labels: Tensor) -> Tensor:
    """Compares logits (B, K) with K labels of 0 or 1 each, of shape (B, K); or (B, 1) with (B,).

    Raises:
        DataError: if there are not as many of one as of the other.
    """
    return nn.functional.binary_cross_entropy_with_logits(_like_labels(output, labels), labels.to(output.dtype))


def _like_labels(output: Tensor, labels: Tensor) -> Tensor:
    if output.numel() != labels.numel():
        raise DataError(
            f"the model returns {tuple(output.shape)} for labels of shape {tuple(labels.shape)}: make it with output_size="
            f"{labels[0].numel()}, or use loss='cross_entropy' for classes, or a function (output, labels) -> scalar"
        )
    return output.view_as(labels)


def cross_entropy(output: Tensor, labels: Tensor) -> Tensor:
    """Compares logits (B, C) with classes (B,), or (B, 1).

    Raises:
        DataError: if logits are not of this shape, or a class has none.
    """
    classes = labels.squeeze(1) if labels.dim() == 2 and labels.shape[1] == 1 else labels
    if output.dim() != 2 or classes.dim() != 1:
        raise DataError(
            f"the model returns {tuple(output.shape)} for labels of shape {tuple(labels.shape)}: expected (B, C) and (B,); "
            "several labels of 0 or 1 each are for loss='bce', and all else for a function (output, labels) -> scalar"
        )
    try:
        return nn.functional.cross_entropy(output, classes)
    except IndexError:
        found = f"there is a class {int(classes.max())} but the model returns logits for {output.shape[1]} classes"
        raise DataError(f"{found}: make it with output_size={int(classes.max()) + 1} or more") from None


LOSSES: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "mae": mean_absolute_error,
    "cross_entropy": cross_entropy,
    "bce": binary_cross_entropy,
}


def prediction_of(output: Any) -> Tensor:
    """Returns the prediction of a model that returns more: `logits` or the only tensor of a mapping, the first item of a tuple.

    Raises:
        DataError: if it is something else.

    Example:
        >>> prediction_of({"loss": None, "logits": torch.tensor([1.0])}), prediction_of((torch.tensor([2.0]), "more"))
        (tensor([1.]), tensor([2.]))
    """
    found = output
    if isinstance(output, Mapping):
        tensors = [value for value in output.values() if isinstance(value, Tensor)]
        found = output.get("logits", tensors[0] if len(tensors) == 1 else None)
    elif isinstance(output, (tuple, list)) and output:
        found = output[0]
    if not isinstance(found, Tensor):
        has = f"a mapping with {list(output)}" if isinstance(output, Mapping) else f"type {type(output).__name__}"
        raise DataError(
            f"the model returns {has}, of which nobody can tell the prediction: return a tensor, or call it 'logits'"
        )
    return found


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
    optimizer: MakeOptimizer | None = None,
    scheduler: MakeScheduler | None = None,
    batch_size: int = 32,
    epochs: int = 100,
    decay_after: int = 2,
    decay: float = 0.5,
    gradient_clip: float | None = None,
    patience: int = 10,
    device: str | torch.device | None = None,
    workers: int = 0,
    find_unused_parameters: bool = False,
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
        model: Module called as model(inputs, lengths); returns (B, 1) for "mae", logits (B, C) for "cross_entropy", or
            whatever a loss of your own takes. It may be compiled; checkpoints are the same.
        train: Samples to learn from.
        valid: Samples to choose by.
        seed: Random seed of batches and dropout. (Default: 0)
        loss: Name of the loss: "mae", "cross_entropy" for classes, "bce" for labels of 0 or 1, one or several per sample; or a
            function (output, labels) -> scalar, the mean over a batch. (Default: "mae", Section 3)
        learning_rate: Learning rate of Adam. (Default: 5e-4, Section 3)
        optimizer: Function of the parameters that makes an optimizer. (Default: Adam, Section 3)
        scheduler: Function of the optimizer that makes a scheduler, which is stepped once an epoch, with the validation loss
            if it is a `ReduceLROnPlateau`. (Default: the one described above)
        batch_size: Samples of a batch, of all processes together. (Default: 32, the public code)
        epochs: Largest number of epochs. (Default: 100, the public code)
        decay_after: Epochs without a fall before the learning rate decays. (Default: 2, Section 3)
        decay: Factor of the learning rate then. (Default: 0.5, Section 3)
        gradient_clip: Largest norm of all gradients together; None for any. (Default: None, the public code)
        patience: Epochs without a fall before training stops. (Default: 10, Section 3)
        device: Device to train on, to which the model is moved. (Default: the model's own)
        workers: Processes that make batches: see :func:`topdown.datasets.data_loader`; they change no number. (Default: 0)
        find_unused_parameters: Whether some parameters take no part in some steps, of which many processes must know. (Default:
            False)
        checkpoint: File that is written after every epoch; if it is there already, training goes on from it, and ends with
            the same weights as if it had never stopped. It must have been written with the same settings. (Default: none)
        on_epoch: Function that is called with the record of each epoch.

    Returns:
        Best epoch, and history.

    Raises:
        DataError: if labels do not fit the loss, splits or the model differ in modalities, a loss or a gradient is not finite
            (naming the epoch, the batch and its samples), or the checkpoint is of another training.
    """
    _check(model, train, valid, loss)
    path = None if checkpoint is None else Path(checkpoint)
    settings = {
        "data": [_fingerprint(train), _fingerprint(valid)],
        "seed": seed,
        "loss": _named(loss),
        "learning_rate": learning_rate,
        **{name: _named(make) for name, make in (("optimizer", optimizer), ("scheduler", scheduler)) if make is not None},
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
        compare = LOSSES[loss] if isinstance(loss, str) else loss
        steps = optimizer(model.parameters()) if optimizer else torch.optim.Adam(model.parameters(), learning_rate, fused=True)
        plateau = torch.optim.lr_scheduler.ReduceLROnPlateau
        rate = scheduler(steps) if scheduler else plateau(steps, "min", decay, decay_after - 1, 0.0, "abs")
        parts = {"model": model, "optimizer": steps, "scheduler": rate}
        progress = _Progress(0, float("inf"), _copy(model), [])
        if path is not None and path.exists():
            progress = _resume(path, parts, settings, place)
        replica = parallel(model, find_unused_parameters)
        loader = data_loader(train, batch_size, seed=seed, workers=workers, pin_memory=place.type == "cuda")
        while len(progress.history) < epochs and len(progress.history) - progress.best_epoch < patience:
            start = time.perf_counter()
            epoch = len(progress.history) + 1
            if rank():  # another dropout in each process
                torch.manual_seed((seed * 1_000_003 + epoch) * 1_000_003 + rank())
            record: dict[str, float] = {"epoch": epoch}
            named = isinstance(loss, str)
            record["train_loss"] = _train_epoch(replica, steps, loader, compare, epoch, gradient_clip, train.ids, named=named)
            record["valid_loss"] = _validate(model, valid, compare, batch_size, named=named)
            _check_finite(record)
            record |= {"learning_rate": steps.param_groups[0]["lr"], "seconds": time.perf_counter() - start}
            rate.step(*([record["valid_loss"]] if isinstance(rate, plateau) else []))
            progress = progress.after(record, model)
            if path is not None:
                _keep(path, parts, settings, progress, place)
            if on_epoch is not None:
                on_epoch(record)
        _load(model, progress.best_weights)
        return Fit(progress.best_epoch, progress.best_loss, progress.history)


def _keep(path: Path, parts: Mapping[str, Any], settings: object, progress: _Progress, device: torch.device) -> None:
    """Writes everything that a training needs to go on."""
    state = {name: _copy(part) if isinstance(part, nn.Module) else part.state_dict() for name, part in parts.items()}
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
        _load(parts["model"], state["model"])
    except (KeyError, RuntimeError):
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
                found = prediction_of(model(batch.inputs, batch.lengths)).float()
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
    loader: BatchLoader,
    loss: Callable[[Any, Tensor], Tensor],
    epoch: int,
    gradient_clip: float | None,
    ids: Sequence[str],
    *,
    named: bool,
) -> float:
    """Returns the mean loss over all samples, of all processes."""
    model.train()
    device = device_of(model)
    losses, count = torch.zeros((), device=device), 0
    sampler = cast(BucketedSampler, loader.batch_sampler)
    sampler.set_epoch(epoch)
    batches = sampler.batches()
    for number, (batch, whole) in enumerate(zip(loader, batches, strict=True), 1):
        batch = batch.to(device)
        optimizer.zero_grad(set_to_none=True)
        output = model(batch.inputs, batch.lengths)
        value = loss(prediction_of(output) if named else output, batch.labels)
        # Processes average their gradients: each counts by its share of the batch, so that every sample counts alike.
        (value * (len(batch.labels) * world_size() / len(whole))).backward()
        if gradient_clip is None:
            norm = nn.utils.get_total_norm([p.grad for p in model.parameters() if p.grad is not None])
        else:
            norm = nn.utils.clip_grad_norm_(model.parameters(), gradient_clip)
        value = value.detach()
        if not math.isfinite(float(value + norm)):
            found = f"the loss is {float(value):g} and the norm of its gradient {float(norm):g}"
            where = f"epoch {epoch}, batch {number}, with samples {', '.join(ids[i] for i in whole.tolist()[:8])} ..."
            raise DataError(f"{found} in {where}; look for extreme values in the features, or lower the learning rate")
        optimizer.step()
        losses += value * len(batch.labels)
        count += len(whole)
    return float(total(losses)) / count


def _validate(
    model: nn.Module, data: SequenceDataset, loss: Callable[[Any, Tensor], Tensor], batch_size: int, *, named: bool
) -> float:
    """Returns the mean loss over all samples, of all processes, in evaluation mode."""
    if named:
        return float(loss(predict(model, data, batch_size=batch_size), data.labels))
    model.eval()
    device = device_of(model)
    losses = torch.zeros((), device=device)
    with torch.inference_mode():
        for number, indices in enumerate(data.batch_lengths().argsort(stable=True).split(batch_size)):
            if number % world_size() == rank():
                batch = data.batch(indices).to(device)
                losses += loss(model(batch.inputs, batch.lengths), batch.labels) * len(indices)
    return float(total(losses.clone())) / len(data)


def _check(model: nn.Module, train: SequenceDataset, valid: SequenceDataset, loss: Loss) -> None:
    """Checks what can be checked before the first step."""
    if not callable(loss) and loss not in LOSSES:
        raise DataError(f"loss={loss!r} is not known: use one of {list(LOSSES)}, or a function (output, labels) -> scalar")
    if train.sizes != valid.sizes:
        raise DataError(f"the validation data has features {valid.sizes}, but the training data has {train.sizes}")
    sizes = getattr(model, "input_sizes", None)
    if isinstance(sizes, Mapping) and dict(sizes) != train.sizes:
        raise DataError(
            f"the model takes features {dict(sizes)}, but the data has {train.sizes}: make the model from data.sizes"
        )
    for data, which in ((train, "training"), (valid, "validation")):
        if data.labels is None:
            raise DataError(f"the {which} data has no labels: give SequenceDataset.from_arrays labels=, or the file 'labels'")
        whole, least, most = not data.labels.is_floating_point(), float(data.labels.min()), float(data.labels.max())
        if loss == "bce" and not 0 <= least <= most <= 1:
            raise DataError(f"labels lie in {least:g}..{most:g}, but loss='bce' takes labels of 0 or 1")
        if loss in ("mae", "cross_entropy") and whole != (loss == "cross_entropy"):
            remedy = (
                "give them as floating point, or use loss='cross_entropy' for classes, 'bce' for labels of 0 or 1"
                if whole
                else "give classes as integers 0, 1, 2 ..."
            )
            raise DataError(f"labels are {data.labels.dtype}, which is not for loss={loss!r}: {remedy}")
        if loss == "cross_entropy" and least < 0:
            raise DataError(f"a class is {int(least)}: number classes from 0")


def _fingerprint(data: SequenceDataset) -> str:
    """Tells data sets apart by their labels, ids, sizes and lengths."""
    digest = hashlib.sha256(b"" if data.labels is None else data.labels.numpy().tobytes())
    digest.update(json.dumps([data.ids, data.sizes]).encode())
    for lengths in data.lengths.values():
        digest.update(lengths.numpy().tobytes())
    return digest.hexdigest()[:16]


def _copy(model: nn.Module) -> dict[str, Tensor]:
    """Returns copies of all values, by names that do not tell what is compiled."""
    return {_plain(name): value.detach().clone() for name, value in model.state_dict().items()}


def _load(model: nn.Module, values: Mapping[str, Tensor]) -> None:
    """Loads such values, whatever is compiled now.

    Raises:
        KeyError, RuntimeError: if they are of another model.
    """
    names = {_plain(name): name for name in model.state_dict()}
    model.load_state_dict({names[name]: value for name, value in values.items()})


def _plain(name: str) -> str:
    return name.replace("_orig_mod.", "")


def _named(function: object) -> object:
    """Returns a name for a function, to tell settings apart."""
    return function if isinstance(function, str) else getattr(function, "__qualname__", type(function).__qualname__)


def _random_state(device: torch.device) -> list[Tensor]:
    return [torch.get_rng_state(), *([torch.cuda.get_rng_state(device)] if device.type == "cuda" else [])]


def _set_random_state(states: list[Tensor], device: torch.device) -> None:
    torch.set_rng_state(states[0].cpu())
    if device.type == "cuda":
        torch.cuda.set_rng_state(states[-1].cpu(), device)
