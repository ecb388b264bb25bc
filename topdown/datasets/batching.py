"""Batches of samples of similar length, in one process or in many."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import DataLoader, Sampler

from topdown.datasets.data import Batch, SequenceDataset


def bucketed_batches(lengths: Tensor, batch_size: int, *, seed: int, epoch: int, pool: int = 20) -> list[Tensor]:
    """Splits samples into batches of similar length, in random order: every sample once, the same for a seed and epoch.

    All samples are shuffled and cut into pools of `pool` batches; each pool is sorted by length and cut into batches, and
    all batches are shuffled. Similar lengths make an epoch twice as fast as random batches, which are mostly padding.

    Args:
        lengths: Lengths of all samples, of shape (N,).
        batch_size: Samples of a batch; the last one of the last pool may hold fewer.
        seed: Random seed of the order.
        epoch: Number of the epoch, which changes the order.
        pool: Batches of a pool. 1 gives plain random batches. (Default: 20)

    Returns:
        Indices of each batch.

    Example:
        >>> batches = bucketed_batches(torch.tensor([3, 9, 3, 9]), 2, seed=0, epoch=0)
        >>> sorted(sorted(batch.tolist()) for batch in batches)
        [[0, 2], [1, 3]]
    """
    generator = torch.Generator("cpu").manual_seed(seed * 1_000_003 + epoch)
    order = torch.randperm(len(lengths), generator=generator, device="cpu")
    batches: list[Tensor] = []
    for members in order.split(pool * batch_size):
        batches += members[lengths[members].argsort(stable=True)].split(batch_size)
    return [batches[i] for i in torch.randperm(len(batches), generator=generator, device="cpu").tolist()]


class BucketedSampler(Sampler[list[int]]):
    """The batches of :func:`bucketed_batches`, as a `batch_sampler`; under distributed training, this process's share of each.

    Every process takes every `world_size`-th sample of every batch, beginning with its rank, so that all together see each
    sample once an epoch, in the same steps as one process would. A batch too small to give every process a sample joins the
    one before it.

    Args:
        lengths: Lengths of all samples, of shape (N,): see :meth:`SequenceDataset.batch_lengths`.
        batch_size: Samples of a batch, of all processes together.
        seed: Random seed of the order. (Default: 0)
        epoch: First epoch; each one that is asked for is another, in another order. (Default: 0)
        pool: Batches of a pool. (Default: 20)
        rank: Number of this process. (Default: that of `torch.distributed`, or 0)
        world_size: Number of processes. (Default: that of `torch.distributed`, or 1)

    Raises:
        ValueError: if a number is out of its range.

    Example:
        >>> lengths = torch.tensor([3, 9, 3, 9, 5])
        >>> shares = [list(BucketedSampler(lengths, 2, rank=rank, world_size=2)) for rank in range(2)]
        >>> sorted(i for share in shares for batch in share for i in batch)
        [0, 1, 2, 3, 4]
    """

    def __init__(
        self,
        lengths: Tensor,
        batch_size: int,
        *,
        seed: int = 0,
        epoch: int = 0,
        pool: int = 20,
        rank: int | None = None,
        world_size: int | None = None,
    ) -> None:
        running = torch.distributed.is_available() and torch.distributed.is_initialized()
        self.world_size = world_size or (torch.distributed.get_world_size() if running else 1)
        self.rank = (torch.distributed.get_rank() if running else 0) if rank is None else rank
        if batch_size < 1 or pool < 1:
            raise ValueError(f"batch_size and pool must be at least 1, got {batch_size} and {pool}")
        if not 0 <= self.rank < self.world_size:
            raise ValueError(f"rank {self.rank} is not among the {self.world_size} processes, 0 to {self.world_size - 1}")
        if batch_size < self.world_size or len(lengths) < self.world_size:
            raise ValueError(
                f"a batch of {batch_size} of {len(lengths)} samples does not give each of {self.world_size} processes one: "
                "use fewer processes or larger batches"
            )
        self.lengths, self.batch_size, self.seed, self.epoch, self.pool = lengths, batch_size, seed, epoch, pool

    def batches(self) -> list[Tensor]:
        """Returns the batches of all processes together."""
        batches = bucketed_batches(self.lengths, self.batch_size, seed=self.seed, epoch=self.epoch, pool=self.pool)
        small = next((i for i, batch in enumerate(batches) if len(batch) < self.world_size), None)
        if small is not None:  # only the last batch of the last pool can be
            rest = batches.pop(small)
            batches[small - 1] = torch.cat([batches[small - 1], rest])
        return batches

    def set_epoch(self, epoch: int) -> None:
        """Says which epoch is the next."""
        self.epoch = epoch

    def __iter__(self) -> Iterator[list[int]]:
        batches = self.batches()
        self.epoch += 1  # not before the first batch is asked for: a loader makes iterators that it does not use
        for batch in batches:
            yield batch[self.rank :: self.world_size].tolist()

    def __len__(self) -> int:
        return len(self.batches())


def data_loader(
    data: SequenceDataset,
    batch_size: int = 32,
    *,
    seed: int = 0,
    pool: int = 20,
    workers: int = 0,
    pin_memory: bool = False,
) -> DataLoader[Batch]:
    """Makes a loader of batches of similar length, each padded to its own longest; in another order each time.

    `loader.batch_sampler.set_epoch(n)` says which order is the next, as after an interruption.

    Args:
        data: Samples.
        batch_size: Samples of a batch, of all processes together if training is distributed. (Default: 32)
        seed: Random seed of the order. (Default: 0)
        pool: Batches of a pool: see :func:`bucketed_batches`. (Default: 20)
        workers: Processes that make batches beside the training; 0 makes them in the training itself, which is as fast unless
            the disk is slow. (Default: 0)
        pin_memory: Whether to put batches where a GPU can fetch them while it computes. (Default: False)

    Returns:
        Loader of :class:`Batch`.

    Example:
        >>> data = SequenceDataset.from_arrays({"audio": [torch.ones(n, 2) for n in (4, 1, 4, 1)]}, [0.0, 1.0, 2.0, 3.0])
        >>> sorted(batch.inputs["audio"].shape for batch in data_loader(data, 2))
        [torch.Size([2, 1, 2]), torch.Size([2, 4, 2])]
    """
    sampler = BucketedSampler(data.batch_lengths(), batch_size, seed=seed, pool=pool)
    options: dict[str, Any] = {"num_workers": workers, "pin_memory": pin_memory, "persistent_workers": workers > 0}
    options["generator"] = torch.Generator("cpu").manual_seed(
        seed
    )  # or the loader draws from the random numbers of the training
    numbers: Any = range(len(data))  # workers get numbers, and make whole batches of them
    return DataLoader(numbers, batch_sampler=sampler, collate_fn=data.batch, **options)
