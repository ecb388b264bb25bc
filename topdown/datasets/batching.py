"""Loads batches of samples of similar length, in one process or in several."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, cast

import torch
from torch import Tensor
from torch.utils.data import DataLoader, Sampler

from topdown.datasets.batch import Batch
from topdown.datasets.data import SequenceDataset
from topdown.datasets.errors import check_whole_numbers

LARGEST_SEED = 2**63  # of torch


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
    generator = torch.Generator("cpu").manual_seed((int(seed) * 1_000_003 + epoch) % LARGEST_SEED)
    order = torch.randperm(len(lengths), generator=generator, device="cpu")
    batches: list[Tensor] = []
    for members in order.split(pool * batch_size):
        batches += members[lengths[members].argsort(stable=True)].split(batch_size)
    return [batches[i] for i in torch.randperm(len(batches), generator=generator, device="cpu").tolist()]


class BucketedSampler(Sampler[list[int]]):
    """Yields the batches of :func:`bucketed_batches`, as a `batch_sampler`; in distributed training, a share of each.

    Every process takes every `world_size`-th sample of every batch, beginning with its rank, so that all together see each
    sample once an epoch, in the same steps as one process would. A shuffled batch of one sample, or a batch too small to give
    every process a sample, joins the one before it.

    Args:
        lengths: Lengths of all samples, of shape (N,): see :meth:`SequenceDataset.batch_lengths`.
        batch_size: Samples of a batch, of all processes together.
        shuffle: Whether batches are those of :func:`bucketed_batches`, in another order each epoch, or in the order of the
            data. (Default: True)
        seed: Random seed of the order. (Default: 0)
        epoch: First epoch. Each iteration is the next epoch, in another order. (Default: 0)
        pool: Batches of a pool. (Default: 20)
        rank: Number of this process. (Default: that of `torch.distributed` when an epoch begins, or 0)
        world_size: Number of processes. (Default: that of `torch.distributed` when an epoch begins, or 1)

    Raises:
        ValueError: if a number is out of its range; when an epoch begins, too, if there are fewer samples than processes.

    Example:
        >>> lengths = torch.tensor([3, 9, 3, 9, 5])
        >>> shares = [list(BucketedSampler(lengths, 2, rank=rank, world_size=2)) for rank in range(2)]
        >>> sorted(i for share in shares for batch in share for i in batch)
        [0, 1, 2, 3, 4]
    """

    # Not named `batch_size`: libraries that shard batch samplers, such as accelerate, read that as the size of every batch.
    def __init__(
        self,
        lengths: Tensor,
        batch_size: int,
        *,
        shuffle: bool = True,
        seed: int = 0,
        epoch: int = 0,
        pool: int = 20,
        rank: int | None = None,
        world_size: int | None = None,
    ) -> None:
        check_whole_numbers({"batch_size": batch_size, "pool": pool}, 1)
        self.lengths, self.samples, self.shuffle = lengths, batch_size, shuffle
        self.seed, self.epoch, self.pool = seed, epoch, pool
        self.requested = rank, world_size
        if world_size is not None:
            self.place()

    def place(self) -> tuple[int, int]:
        """Returns the rank of this process, and the number of processes.

        Raises:
            ValueError: if they do not fit one another, the batches or the samples.
        """
        running = torch.distributed.is_available() and torch.distributed.is_initialized()
        rank, world_size = self.requested
        world_size = world_size or (torch.distributed.get_world_size() if running else 1)
        rank = (torch.distributed.get_rank() if running else 0) if rank is None else rank
        if not 0 <= rank < world_size:
            raise ValueError(f"rank {rank} is not among the {world_size} processes, 0 to {world_size - 1}")
        if self.samples < world_size or len(self.lengths) < world_size:
            raise ValueError(
                f"a batch of {self.samples} of {len(self.lengths)} samples does not give each of {world_size} processes one: "
                "use fewer processes or larger batches"
            )
        return rank, world_size

    def batches(self) -> list[Tensor]:
        """Returns the batches of all processes together."""
        _, world_size = self.place()
        if self.shuffle:
            batches = bucketed_batches(self.lengths, self.samples, seed=self.seed, epoch=self.epoch, pool=self.pool)
        else:
            batches = list(torch.arange(len(self.lengths), device="cpu").split(self.samples))
        # Batch norm cannot train on one sample.
        least = max(world_size, 2 if self.shuffle and self.samples > 1 else 1)
        small = next((i for i, batch in enumerate(batches) if len(batch) < least), None)
        if small is not None and len(batches) > 1:  # only the last batch of the last pool can be small
            rest = batches.pop(small)
            batches[small - 1] = torch.cat([batches[small - 1], rest])
        return batches

    def set_epoch(self, epoch: int) -> None:
        """Sets the next epoch."""
        self.epoch = epoch

    def __iter__(self) -> Iterator[list[int]]:
        rank, world_size = self.place()
        batches = self.batches()
        self.epoch += 1  # only when the first batch is requested: a loader creates iterators that it does not use
        for batch in batches:
            yield batch[rank::world_size].tolist()

    def __len__(self) -> int:
        return len(self.batches())


class _WholeBatches(BucketedSampler):
    """Yields shares of batches to the loader itself, and whole batches to a framework that distributes them.

    Such a framework, for example accelerate, gives each process every n-th batch, so each process must get equally many.
    """

    shares = False  # set by the loader before it begins an epoch

    def __iter__(self) -> Iterator[list[int]]:
        if self.shares:
            self.shares = False
            return super().__iter__()
        return self._whole()

    def _whole(self) -> Iterator[list[int]]:
        batches = self.even_batches()
        self.epoch += 1
        for batch in batches:
            yield batch.tolist()

    def even_batches(self) -> list[Tensor]:
        """Returns equally many batches for each process. It cuts the largest batches in two where that is necessary."""
        _, world_size = self.place()
        batches = self.batches()
        while len(batches) % world_size:
            largest = max(range(len(batches)), key=lambda i: len(batches[i]))
            batch = batches[largest]
            batches[largest : largest + 1] = [batch[: (len(batch) + 1) // 2], batch[(len(batch) + 1) // 2 :]]
        return batches

    def __len__(self) -> int:
        return len(self.even_batches())


class BatchLoader(DataLoader[Batch]):
    """Loads this process's share of every batch: see :func:`data_loader`."""

    def __len__(self) -> int:
        """Returns the number of steps of an epoch, the same in all processes."""
        return len(cast(BucketedSampler, self.batch_sampler).batches())

    def __iter__(self) -> Iterator[Batch]:  # type: ignore[override]
        """Starts an epoch."""
        cast(_WholeBatches, self.batch_sampler).shares = True
        return super().__iter__()


def data_loader(
    data: SequenceDataset,
    batch_size: int = 32,
    *,
    shuffle: bool = True,
    seed: int = 0,
    pool: int = 20,
    workers: int = 0,
    pin_memory: bool = False,
) -> BatchLoader:
    """Makes a loader of batches of similar length, each padded to its longest sample, in a new order in each epoch.

    Every sample comes once an epoch, in as many processes as there are when the epoch begins: under `torch.distributed` each
    takes its share of every batch, and after `accelerator.prepare(loader)` it takes every n-th batch. With Lightning, pass
    `use_distributed_sampler=False`, since the loader distributes its batches itself.

    `loader.batch_sampler.set_epoch(n)` sets the next epoch, and with it the order, for example after an interruption.

    Args:
        data: Samples.
        batch_size: Samples of a batch, of all processes together if training is distributed. (Default: 32)
        shuffle: Whether the order is random, by similar length; otherwise it is that of the data. (Default: True)
        seed: Random seed of the order. (Default: 0)
        pool: Batches of a pool: see :func:`bucketed_batches`. (Default: 20)
        workers: Processes that make batches beside the training; 0 makes them in the training process, which is as fast unless
            the disk is slow. (Default: 0)
        pin_memory: Whether to put batches into pinned memory, from which a GPU copies them while it computes. (Default: False)

    Returns:
        Loader of :class:`Batch`.

    Raises:
        ValueError: if `batch_size` or `pool` is less than 1; when an epoch begins, if there are fewer samples than processes.

    Example:
        >>> data = SequenceDataset.from_arrays({"audio": [torch.ones(n, 2) for n in (4, 1, 4, 1)]}, [0.0, 1.0, 2.0, 3.0])
        >>> sorted(batch.inputs["audio"].shape for batch in data_loader(data, 2))
        [torch.Size([2, 1, 2]), torch.Size([2, 4, 2])]
        >>> [batch.ids for batch in data_loader(data, 3, shuffle=False)]
        [['0', '1', '2'], ['3']]
    """
    sampler = _WholeBatches(data.batch_lengths(), batch_size, shuffle=shuffle, seed=seed, pool=pool)
    options: dict[str, Any] = {"num_workers": workers, "pin_memory": pin_memory, "persistent_workers": workers > 0}
    # Without it, the loader draws from the global random numbers.
    options["generator"] = torch.Generator("cpu").manual_seed(seed)
    numbers: Any = range(len(data))  # workers get indices, and make whole batches of them
    return BatchLoader(numbers, batch_sampler=sampler, collate_fn=data.batch, **options)
