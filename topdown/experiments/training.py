"""The paper's protocol: train, validate, halve the learning rate, stop early, test the best epoch."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader

from topdown.experiments.batching import data_loader
from topdown.experiments.data import Batch, SequenceDataset
from topdown.experiments.errors import DataError
from topdown.experiments.files import write_file

Loss = Literal["mae", "cross_entropy"]
LOSSES: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "mae": lambda output, labels: nn.functional.l1_loss(output.view_as(labels), labels),
    "cross_entropy": nn.functional.cross_entropy,
}


class Fit(NamedTuple):
    """How a training went.

    Args:
        best_epoch: The epoch with the lowest validation loss, from 1; the model has its weights.
        best_loss: That loss.
        history: Per epoch: epoch, train_loss, valid_loss, learning_rate, seconds.
    """

    best_epoch: int
    best_loss: float
    history: list[dict[str, float]]


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
    device: str = "cpu",
    workers: int = 0,
    checkpoint: Path | None = None,
    on_epoch: Callable[[dict[str, float]], None] | None = None,
) -> Fit:
    """Trains a model and leaves it with the weights of its best epoch.

    Adam; the learning rate is halved (`decay`) when the validation loss has not fallen for `decay_after` epochs (looked at
    once an epoch, and at nothing else); training stops when it has not fallen for `patience` epochs. Section 3 of the paper,
    but for batch size and epochs, which are those of its public code.

    The order of the batches depends on `seed` and the epoch alone, so that different models see the same batches. Random
    numbers of the caller are left as they were.

    Args:
        model: Called as model(inputs, lengths); returns (B, 1) for "mae", or logits (B, C) for "cross_entropy".
        train: Samples to learn from.
        valid: Samples to choose by.
        seed: Of batches and dropout. (Default: 0)
        loss: "mae", or "cross_entropy" for integer labels. (Default: "mae", Section 3)
        learning_rate: Of Adam. (Default: 5e-4, Section 3)
        batch_size: Samples of a batch. (Default: 32, the public code)
        epochs: At most. (Default: 100, the public code)
        decay_after: Epochs without a fall before the learning rate decays. (Default: 2, Section 3)
        decay: What the learning rate is multiplied by then. (Default: 0.5, Section 3)
        gradient_clip: The largest norm of all gradients together; None for any. (Default: None, the public code)
        patience: Epochs without a fall before training stops. (Default: 10, Section 3)
        device: Where to train. (Default: "cpu")
        workers: See :func:`topdown.experiments.data_loader`; they change no number. (Default: 0)
        checkpoint: Written after every epoch; if it is there already, training goes on from it, and ends with the same
            weights as if it had never stopped. It must have been written with the same settings.
        on_epoch: Called with the record of each epoch.

    Returns:
        The best epoch, and the history.

    Raises:
        DataError: if the loss is no longer finite, or the checkpoint is of another training.
    """
    settings = {
        "seed": seed,
        "loss": loss,
        "learning_rate": learning_rate,
        "batch_size": batch_size,
        "decay_after": decay_after,
        "gradient_clip": gradient_clip,
        "decay": decay,
        "samples": [len(train), len(valid)],
    }
    with torch.random.fork_rng(devices=[torch.device(device)] if device.startswith("cuda") else []):
        torch.manual_seed(seed + 1_000_003)  # not the seed of the initial weights
        model.to(device)
        optimizer = torch.optim.Adam(model.parameters(), lr=learning_rate, fused=True)
        scheduler = torch.optim.lr_scheduler.ReduceLROnPlateau(
            optimizer, factor=decay, patience=decay_after - 1, threshold=0.0, threshold_mode="abs"
        )
        best_epoch, best_loss, best_weights, history = 0, float("inf"), _copy(model), list[dict[str, float]]()
        if checkpoint is not None and checkpoint.exists():
            state = load_checkpoint(checkpoint, device)
            if state.get("settings") != settings:
                raise DataError(
                    f"{checkpoint}: of a training with {state.get('settings')}, not {settings}; delete it to train anew"
                )
            try:
                model.load_state_dict(state["model"])
            except RuntimeError:
                raise DataError(f"{checkpoint}: of another model; delete it to train anew") from None
            optimizer.load_state_dict(state["optimizer"])
            scheduler.load_state_dict(state["scheduler"])
            best_epoch, best_loss, best_weights = state["best_epoch"], state["best_loss"], state["best_weights"]
            history = state["history"]
            _set_random_state(state["random"], device)
        loader = data_loader(train, batch_size, seed=seed, workers=workers, pin_memory=device.startswith("cuda"))
        while len(history) < epochs and len(history) - best_epoch < patience:
            start = time.perf_counter()
            epoch = len(history) + 1
            rate = optimizer.param_groups[0]["lr"]
            train_loss = _train_epoch(model, optimizer, loader, LOSSES[loss], epoch, device, gradient_clip)
            valid_loss = float(LOSSES[loss](predict(model, valid, batch_size=batch_size, device=device), valid.labels))
            if not torch.isfinite(torch.tensor([train_loss, valid_loss])).all():
                raise DataError(
                    f"the loss of epoch {epoch} is not finite (train {train_loss}, validation {valid_loss}); "
                    "look for extreme values in the features, or lower the learning rate"
                )
            scheduler.step(valid_loss)
            if valid_loss < best_loss:
                best_epoch, best_loss, best_weights = epoch, valid_loss, _copy(model)
            record = {
                "epoch": epoch,
                "train_loss": train_loss,
                "valid_loss": valid_loss,
                "learning_rate": rate,
                "seconds": time.perf_counter() - start,
            }
            history.append(record)
            if checkpoint is not None:
                state = {
                    "settings": settings,
                    "model": model.state_dict(),
                    "optimizer": optimizer.state_dict(),
                    "scheduler": scheduler.state_dict(),
                    "best_epoch": best_epoch,
                    "best_loss": best_loss,
                    "best_weights": best_weights,
                    "history": history,
                    "random": _random_state(device),
                }
                save_checkpoint(state, checkpoint)
            if on_epoch is not None:
                on_epoch(record)
        model.load_state_dict(best_weights)
        return Fit(best_epoch, best_loss, history)


def predict(model: nn.Module, data: SequenceDataset, *, batch_size: int = 32, device: str = "cpu") -> Tensor:
    """Returns the outputs of a model in evaluation mode for all samples, in their order, on the CPU."""
    model.eval()
    order = data.batch_lengths().argsort(stable=True)
    outputs = []
    with torch.inference_mode():
        for indices in order.split(batch_size):
            batch = data.batch(indices).to(device)
            outputs.append(model(batch.inputs, batch.lengths).cpu())
    return torch.cat(outputs)[order.argsort()]


def save_checkpoint(state: dict[str, Any], path: Path) -> None:
    """Writes a checkpoint that `torch.load(path, weights_only=True)` reads; the file is there whole or not at all."""
    write_file(path, lambda file: torch.save(state, file))


def load_checkpoint(path: Path, device: str = "cpu") -> dict[str, Any]:
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
    device: str,
    gradient_clip: float | None,
) -> float:
    model.train()
    total, count = torch.zeros((), device=device), 0
    loader.batch_sampler.epoch = epoch  # type: ignore[union-attr]
    for batch in loader:
        batch = batch.to(device)
        optimizer.zero_grad(set_to_none=True)
        value = loss(model(batch.inputs, batch.lengths), batch.labels)
        value.backward()
        if gradient_clip is not None:
            nn.utils.clip_grad_norm_(model.parameters(), gradient_clip)
        optimizer.step()
        total += value.detach() * len(batch.labels)
        count += len(batch.labels)
    return float(total) / count


def _copy(model: nn.Module) -> dict[str, Tensor]:
    return {name: value.detach().clone() for name, value in model.state_dict().items()}


def _random_state(device: str) -> list[Tensor]:
    return [torch.get_rng_state(), *([torch.cuda.get_rng_state(device)] if device.startswith("cuda") else [])]


def _set_random_state(states: list[Tensor], device: str) -> None:
    torch.set_rng_state(states[0].cpu())
    if device.startswith("cuda"):
        torch.cuda.set_rng_state(states[-1].cpu(), device)
