"""Trains a model by the paper's protocol: Adam, learning-rate decay, early stopping."""

from __future__ import annotations

import contextlib
import inspect
import math
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, Literal, NamedTuple, cast

import torch
from torch import Tensor, nn

from topdown.datasets.batch import Batch
from topdown.datasets.batching import LARGEST_SEED, BatchLoader, BucketedSampler, data_loader
from topdown.datasets.data import SequenceDataset
from topdown.datasets.errors import DataError, check_whole_numbers
from topdown.datasets.labels import labelled
from topdown.latch import TopDownLatch
from topdown.training.arguments import check_model, check_numbers, check_samples
from topdown.training.checkpoints import (
    Progress,
    latch_options,
    load_state,
    resume_training,
    save_training,
    state_of,
)
from topdown.training.distributed import gathered, parallel, rank, total, world_size
from topdown.training.fingerprints import fingerprint, named
from topdown.training.losses import LOSSES, Loss, class_weights, cross_entropy, prediction_of
from topdown.training.prediction import device_of, evaluation_mode, predict
from topdown.training.random_state import isolated_random_state, manual_seed, random_state, set_random_state
from topdown.training.scaled_output import ScaledOutput, scaled_by_targets
from topdown.training.stopping import Begun, Stopped
from topdown.unbuilt import UnbuiltFeedback

EXTREME = "look for extreme values in the features, or lower the learning rate"
GETS_MISSING = "a loss of your own gets labels that are missing, nan or -100: leave them out in it"
MakeOptimizer = Callable[[Iterable[nn.Parameter]], torch.optim.Optimizer]
Augment = Callable[[SequenceDataset, int], SequenceDataset]
MakeScheduler = Callable[[torch.optim.Optimizer], Any]


class Fit(NamedTuple):
    """Holds the result of a training.

    Args:
        best_epoch: Epoch with the lowest validation loss, from 1; the model has its weights.
        best_loss: Lowest validation loss.
        history: Records of the epochs: epoch, train_loss, valid_loss, learning_rate, seconds.
        model: Model that was trained; with `standardize_targets` it is inside a :class:`topdown.training.ScaledOutput`.
    """

    best_epoch: int
    best_loss: float
    history: list[dict[str, float]]
    model: nn.Module


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
    standardize_targets: bool = False,
    feedback_learning_rate: float | None = None,
    class_weight: Literal["balanced"] | Mapping[int, float] | None = None,
    augment: Augment | None = None,
    checkpoint: str | Path | None = None,
    on_epoch: Callable[[dict[str, float]], None] | None = None,
    on_step: Callable[[int, int, int], None] | None = None,
) -> Fit:
    """Trains a model and leaves it with the weights of its best epoch.

    The optimizer is Adam. The learning rate is multiplied by `decay` when the validation loss has not fallen for `decay_after`
    epochs, and training stops when it has not fallen for `patience` epochs. This is Section 3 of the paper; batch size and
    epochs are those of its public code.

    The order of the batches depends only on `seed`, the epoch and the lengths, so that different models see the same batches.
    The random state of the caller does not change. Labels that are missing, nan or -100, do not count.

    In a process group of `torch.distributed`, each process trains on a share of every batch. Gradients and losses are means
    over all samples of the batch; without dropout each step is the same as in one process. Every process returns the same
    result. Process 0 writes the checkpoint, from which any number of processes can resume.

    Args:
        model: Module called as model(inputs, lengths); returns (B, 1) for "mae", logits (B, C) for "cross_entropy", or
            any output that a user-defined loss accepts. It may be compiled; checkpoints are the same.
        train: Training samples.
        valid: Validation samples, which decide on the best epoch.
        seed: Random seed of batches and dropout. (Default: 0)
        loss: Name of the loss: "mae", "cross_entropy" for classes, "bce" for labels of 0 or 1, one or several per sample; or a
            function (output, labels) -> scalar, the mean over the batch. (Default: "mae", Section 3)
        learning_rate: Learning rate of Adam. (Default: 5e-4, Section 3)
        optimizer: Function from parameters to an optimizer. (Default: Adam, Section 3)
        scheduler: Function from an optimizer to a scheduler, which takes a step after each epoch, with the validation loss
            if it is a `ReduceLROnPlateau`. (Default: the one described above)
        batch_size: Batch size, of all processes together. (Default: 32, the public code)
        epochs: Maximum number of epochs. (Default: 100, the public code)
        decay_after: Epochs without a fall before the learning rate decays. (Default: 2, Section 3)
        decay: Factor of the learning rate then. (Default: 0.5, Section 3)
        gradient_clip: Maximum norm of all gradients together; None for no limit. (Default: None, the public code)
        patience: Epochs without a fall before training stops. (Default: 10, Section 3)
        device: Device to train on, to which the model is moved. (Default: the model's own)
        workers: Processes that load batches: see :func:`topdown.datasets.data_loader`. (Default: 0)
        find_unused_parameters: As in DistributedDataParallel: set it where some steps do not use all parameters. (Default:
            False)
        standardize_targets: Whether the model learns targets with mean 0 and standard deviation 1, by those of the training
            data, as large numbers need. Predictions of `Fit.model` are in the units of the labels, losses in deviations (a
            user-defined loss in the units of the labels). (Default: False)
        feedback_learning_rate: Learning rate of the feedback of latches, with Adam. (Default: that of all parameters)
        class_weight: Weights of classes in the loss, {class: weight}, 1 for all others; "balanced": N / (C N_c), as in
            scikit-learn, so that rare classes count as much as frequent ones. For loss="cross_entropy". (Default: all 1)
        augment: Function (training data, epoch) -> training data with as many samples, none of them longer. It is called
            before each epoch: `lambda data, epoch: data.corrupt("noise", 0.3, seed=epoch)`. (Default: none)
        checkpoint: File that is written after every epoch. If it exists, training resumes from it, and ends with the same
            weights as an uninterrupted training. It must have been written with the same settings. (Default: none)
        on_epoch: Function that is called with the record of each epoch.
        on_step: Function that is called after each step with the epoch, the step, and the number of steps in an epoch. It may
            raise :class:`topdown.training.Stopped`, after which the checkpoint goes on with the next step.

    Returns:
        Best epoch, its validation loss, history, and the model.

    Raises:
        DataError: if labels do not fit the loss, splits or the model differ in modalities, a loss or a gradient is not finite
            (naming the epoch, the batch and its samples), or the checkpoint is of another training.
    """
    whole = {"batch_size": batch_size, "epochs": epochs, "decay_after": decay_after, "patience": patience}
    batch_size, epochs, decay_after, patience = check_whole_numbers(whole, 1).values()
    seed, workers = check_whole_numbers({"seed": seed, "workers": workers}, 0).values()
    seed %= LARGEST_SEED  # torch takes no larger seed
    rates = {"learning_rate": learning_rate, "feedback_learning_rate": feedback_learning_rate}
    check_numbers(**rates, decay=decay, gradient_clip=gradient_clip)
    check_model(model, train, optimizer, gradient_clip, feedback_learning_rate)
    check_samples(train, valid, loss)
    weights = None if class_weight is None else class_weights(class_weight, train.labels, loss)
    path = None if checkpoint is None else Path(checkpoint)
    settings = {
        "data": [fingerprint(train), fingerprint(valid)],
        "seed": seed,
        "loss": named(loss),
        "learning_rate": learning_rate,
        **{name: named(make) for name, make in (("optimizer", optimizer), ("scheduler", scheduler)) if make is not None},
        "batch_size": batch_size,
        "decay_after": decay_after,
        "gradient_clip": gradient_clip,
        "decay": decay,
        "samples": [len(train), len(valid)],
        **({"augment": named(augment)} if augment is not None else {}),
        **({"standardize_targets": True} if standardize_targets else {}),
        **({"feedback_learning_rate": feedback_learning_rate} if feedback_learning_rate is not None else {}),
        **({"class_weight": weights.tolist()} if weights is not None else {}),
        **({"latch": options} if (options := latch_options(model)) else {}),
    }
    if standardize_targets:
        model = scaled_by_targets(model, train)
    place = device_of(model, device)
    with isolated_random_state(place):
        manual_seed((seed + 1_000_003) % LARGEST_SEED)  # differs from the seed of the initial weights
        model.to(place)
        if any(isinstance(module, UnbuiltFeedback) for module in model.modules()):
            batch = train.batch(torch.arange(min(batch_size, len(train)))).to(place)
            with torch.no_grad(), evaluation_mode(model):
                model(batch.inputs, batch.lengths)  # builds feedback of unknown sizes
        scaled = next((module for module in model.modules() if isinstance(module, ScaledOutput)), None)
        compare = _compare(loss, weights, scaled)
        loss_gets_missing = callable(loss) and not all(bool(labelled(data.labels).all()) for data in (train, valid))
        remedy = GETS_MISSING if loss_gets_missing else EXTREME
        steps = optimizer(model.parameters()) if optimizer else _adam(model, learning_rate, feedback_learning_rate)
        plateau = torch.optim.lr_scheduler.ReduceLROnPlateau
        rate = scheduler(steps) if scheduler else plateau(steps, "min", decay, decay_after - 1, 0.0, "abs")
        parts = {"model": model, "optimizer": steps, "scheduler": rate}
        progress = Progress(0, float("inf"), state_of(model), [])
        if path is not None and path.exists():
            progress = resume_training(path, parts, settings, place)
        replica = parallel(model, find_unused_parameters)
        loader = None
        while len(progress.history) < epochs and len(progress.history) - progress.best_epoch < patience:
            start = time.perf_counter()
            epoch = len(progress.history) + 1
            if loader is None or augment is not None:
                seen = train if augment is None else _augmented(augment(train, epoch), train)
                loader = data_loader(seen, batch_size, seed=seed, workers=workers, pin_memory=place.type == "cuda")
            if rank():  # different dropout in each process
                manual_seed(((seed * 1_000_003 + epoch) * 1_000_003 + rank()) % LARGEST_SEED)
            *_, states = progress.begun or ([],)  # of an epoch that was stopped after a step
            if len(states) == world_size():
                set_random_state(states[rank()], place)
            record: dict[str, float] = {"epoch": epoch}
            with _training_mode(steps):
                try:
                    more = (epoch, gradient_clip, train, remedy, on_step, progress.begun)
                    record["train_loss"] = _train_epoch(replica, steps, loader, compare, *more)
                except Stopped as stopped:
                    if path is not None and stopped.begun is not None:  # else it stopped within a step
                        save_training(path, parts, settings, progress._replace(begun=stopped.begun), place)
                    raise
            record["valid_loss"] = _validate(model, valid, loss, compare, batch_size)
            _check_finite(record, remedy)
            record |= {"learning_rate": steps.param_groups[0]["lr"], "seconds": time.perf_counter() - start}
            rate.step(*([record["valid_loss"]] if isinstance(rate, plateau) else []))
            progress = progress.updated(record, model)
            if path is not None:
                save_training(path, parts, settings, progress, place)
            if on_epoch is not None:
                on_epoch(record)
        load_state(model, progress.best_weights)
        model.eval()
        return Fit(progress.best_epoch, progress.best_loss, progress.history, model)


def _adam(model: nn.Module, learning_rate: float, of_feedback: float | None = None) -> torch.optim.Optimizer:
    """Returns Adam, with fused kernels unless a parameter is complex, which they do not support."""
    fused = not any(p.is_complex() for p in model.parameters())
    if of_feedback is None:
        return torch.optim.Adam(model.parameters(), learning_rate, fused=fused)
    feedback = {p: None for m in model.modules() if isinstance(m, TopDownLatch) for p in m.feedback.parameters()}
    others = [p for p in model.parameters() if p not in feedback]
    groups: list[dict[str, Any]] = [{"params": others}, {"params": [*feedback], "lr": of_feedback}]
    return torch.optim.Adam([group for group in groups if group["params"]], learning_rate, fused=fused)


@contextlib.contextmanager
def _training_mode(optimizer: Any) -> Iterator[None]:
    """Context manager in which an optimizer that has modes, such as a schedule-free one, is in training mode."""
    has_modes = callable(getattr(optimizer, "train", None)) and callable(getattr(optimizer, "eval", None))
    if has_modes:
        optimizer.train()
    try:
        yield
    finally:
        if has_modes:
            optimizer.eval()


def _augmented(augmented: object, train: SequenceDataset) -> SequenceDataset:
    if not isinstance(augmented, SequenceDataset) or len(augmented) != len(train):
        what = f"{len(augmented)} samples" if isinstance(augmented, SequenceDataset) else f"a {type(augmented).__name__}"
        raise DataError(
            f"augment returned {what}: it must return a SequenceDataset of the {len(train)} samples that it was given"
        )
    return augmented


def _check_finite(record: Mapping[str, float], remedy: str) -> None:
    if not math.isfinite(record["train_loss"] + record["valid_loss"]):
        losses = f"(train {record['train_loss']}, validation {record['valid_loss']})"
        raise DataError(f"the loss of epoch {record['epoch']:.0f} is not finite {losses}; {remedy}")


def _train_epoch(
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
    loader: BatchLoader,
    loss: Callable[[Any, Tensor], Tensor],
    epoch: int,
    gradient_clip: float | None,
    data: SequenceDataset,
    remedy: str,
    on_step: Callable[[int, int, int], None] | None,
    begun: Begun | None,
) -> float:
    """Trains one epoch, and returns the mean loss over all labels of all processes. Skips steps that are already done."""
    model.train()
    device = device_of(model)
    done, sums, count, _ = begun or (0, torch.zeros(world_size()), 0, [])
    # As many processes as before continue with their sums, or the last bit of the loss would differ.
    losses = (sums[rank()] if sums.numel() == world_size() > 1 else sums.sum() * (rank() == 0)).to(device)
    label_counts = labelled(data.labels).reshape(len(data), -1).sum(1)  # of each sample
    sampler = cast(BucketedSampler, loader.batch_sampler)
    sampler.set_epoch(epoch)
    batches = sampler.batches()
    closure = inspect.signature(optimizer.step).parameters.get("closure")
    needs_closure = closure is not None and closure.default is closure.empty  # as for LBFGS
    for number, (batch, whole) in enumerate(zip(loader, batches, strict=True), 1):
        if number <= done:
            continue
        mine, everyone = int(labelled(batch.labels).sum()), int(label_counts[whole].sum())
        share = mine * world_size() / max(1, everyone)
        batch = batch.to(device)

        def compute(batch: Batch = batch, whole: Tensor = whole, number: int = number, share: float = share) -> Tensor:
            """Computes the loss and its gradients, several times in a step of some optimizers."""
            optimizer.zero_grad(set_to_none=True)
            value = loss(model(batch.inputs, batch.lengths), batch.labels)
            # Processes average their gradients: each counts by its share of the labels, so that all labels count alike.
            (value * share).backward()
            if gradient_clip is None:
                gradients = [p.grad for p in model.parameters() if p.grad is not None]
                norm = nn.utils.get_total_norm([g.coalesce().values() if g.is_sparse else g for g in gradients])
            else:
                norm = nn.utils.clip_grad_norm_(model.parameters(), gradient_clip)
            if not math.isfinite(float(value.detach() + norm)):
                problem = f"the loss is {float(value.detach()):g} and the norm of its gradient {float(norm):g}"
                where = f"epoch {epoch}, batch {number}, with samples {', '.join(data.ids[i] for i in whole.tolist()[:8])} ..."
                raise DataError(f"{problem} in {where}; {remedy}")
            return value

        if needs_closure:
            value = cast(Any, optimizer).step(compute)
        else:
            value = compute()
            optimizer.step()
        losses = losses + value.detach() * mine
        count += everyone
        try:
            if on_step is not None:
                on_step(epoch, number, len(batches))
        except Stopped as stopped:
            states = zip(*[gathered(state) for state in random_state(device)], strict=True)
            sums = torch.cat(gathered(losses.reshape(1)))
            stopped.begun = number, sums, count, [[*of_a_process] for of_a_process in states]
            raise
    return float(total(losses)) / count


def _compare(loss: Loss, weights: Tensor | None, scaled: ScaledOutput | None) -> Callable[[Any, Tensor], Tensor]:
    """Returns a function (output, labels) -> scalar, in deviations of the targets where the output is scaled by them."""
    if weights is not None:
        return lambda output, labels: cross_entropy(prediction_of(output), labels, weights)
    if not callable(loss) and scaled is not None:
        of = scaled.standardized
        return lambda output, labels: LOSSES[loss](of(prediction_of(output)), of(labels))
    if not callable(loss):
        return lambda output, labels: LOSSES[loss](prediction_of(output), labels)
    return lambda output, labels: loss(output, labels) if labelled(labels).any() else prediction_of(output).sum() * 0.0


def _validate(
    model: nn.Module, data: SequenceDataset, loss: Loss, compare: Callable[[Any, Tensor], Tensor], batch_size: int
) -> float:
    """Returns the mean loss over all labels of all processes, in evaluation mode."""
    if not callable(loss):
        return float(compare(predict(model, data, batch_size=batch_size), data.labels))
    device = device_of(model)
    losses, count = torch.zeros((), device=device), int(labelled(data.labels).sum())
    with torch.no_grad(), evaluation_mode(model):
        for number, indices in enumerate(data.batch_lengths().argsort(stable=True).split(batch_size)):
            if number % world_size() == rank():
                batch = data.batch(indices)
                batch_count, batch = int(labelled(batch.labels).sum()), batch.to(device)
                losses += compare(model(batch.inputs, batch.lengths), batch.labels) * batch_count
    return float(total(losses)) / count
