"""Models of recipe.py: feedback of other kinds, what it reads, and what else a loss may ask for."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, cast

import torch
from torch import Tensor, nn

from topdown import LatchTrace, TopDownLatch
from topdown.experiments.synthetic import GROUPS, SIZES


def mean_over_time(encoding: Tensor, lengths: Tensor | None) -> Tensor:
    """Returns the mean over valid steps, of shape (B, 1, d)."""
    steps = encoding.shape[1]
    count = encoding.new_full((len(encoding), 1, 1), steps) if lengths is None else lengths.clamp(min=1).view(-1, 1, 1)
    return encoding.sum(1, keepdim=True) / count


class LowRank(nn.Module):
    """Feedback through a few numbers: an encoding, averaged over time or not, becomes `rank` numbers, and these the logits.

    With `source_dropout` a source says nothing of some samples, drawn anew in each step of training.
    """

    def __init__(
        self, source_size: int, target_size: int, *, rank: int = 8, pooled: bool = True, source_dropout: float = 0.0
    ) -> None:
        super().__init__()
        self.down, self.up, self.pooled = nn.Linear(source_size, rank), nn.Linear(rank, target_size), pooled
        self.source_dropout = source_dropout

    def forward(self, encoding: Tensor, lengths: Tensor | None = None) -> Tensor:
        """Returns logits of shape (B, T, D)."""
        steps = encoding.shape[1]
        logits: Tensor = self.up(self.few(encoding, lengths))
        if self.training and self.source_dropout:
            logits = logits * (torch.rand(len(logits), 1, 1) >= self.source_dropout)
        return logits.expand(-1, steps, -1)

    def few(self, encoding: Tensor, lengths: Tensor | None = None) -> Tensor:
        """Returns the few numbers, of shape (B, 1 or T, rank)."""
        few: Tensor = torch.tanh(self.down(mean_over_time(encoding, lengths) if self.pooled else encoding))
        return few


class Linear(nn.Module):
    """Linear feedback from an encoding, averaged over time or not, with dropout on what it reads.

    Its weights are divided by `rate` and its logits multiplied: Adam then learns as with so many times the learning rate.
    """

    def __init__(
        self, source_size: int, target_size: int, *, pooled: bool = False, dropout: float = 0.0, rate: float = 1.0
    ) -> None:
        super().__init__()
        self.dropout, self.linear, self.rate = nn.Dropout(dropout), nn.Linear(source_size, target_size), rate
        self.pooled = pooled
        with torch.no_grad():
            for parameter in self.linear.parameters():
                parameter.div_(rate)

    def forward(self, encoding: Tensor, lengths: Tensor | None = None) -> Tensor:
        """Returns logits of shape (B, T, D)."""
        read = mean_over_time(encoding, lengths) if self.pooled else encoding
        logits: Tensor = self.rate * self.linear(self.dropout(read))
        return logits.expand(-1, encoding.shape[1], -1)


class Beside(nn.Module):
    """A backbone with further encodings, which feedback may read in place of its own and fusion does not."""

    def __init__(self, backbone: Any, sizes: Mapping[str, int], tell: Callable[..., dict[str, Tensor]]) -> None:
        super().__init__()
        self.backbone, self.input_sizes = backbone, dict[str, int](backbone.input_sizes)
        self.encoding_sizes = {**backbone.encoding_sizes, **{f"told by {k}": size for k, size in sizes.items()}}
        self.tell = tell

    def encode(self, inputs: Mapping[str, Tensor], lengths: Any = None) -> dict[str, Tensor]:
        """Returns encodings of shape (B, T, d), and what is told, of shape (B, T, d) or (B, d)."""
        own = self.backbone.encode({name: inputs[name] for name in self.input_sizes}, lengths)
        return {**own, **{f"told by {name}": values for name, values in self.tell(inputs, lengths).items()}}

    def fuse(self, encodings: Mapping[str, Tensor], lengths: Any = None) -> Tensor:
        """Predicts."""
        output: Tensor = self.backbone.fuse({name: encodings[name] for name in self.input_sizes}, lengths)
        return output

    def forward(self, inputs: Mapping[str, Tensor], lengths: Any = None) -> Tensor:
        """Predicts without feedback."""
        return self.fuse(self.encode(inputs, lengths), lengths)

    @property
    def sources(self) -> dict[str, list[str]]:
        """What each modality is masked by: what is told by every other."""
        return {k: [f"told by {j}" for j in self.input_sizes if j != k] for k in self.input_sizes}


def tells_codes(backbone: nn.Module) -> Beside:
    """Lets feedback read the planted codes, which are inputs: nothing has to be read off encodings."""
    return Beside(backbone, dict.fromkeys(SIZES, GROUPS), lambda inputs, _: {name: inputs[f"code of {name}"] for name in SIZES})


def reads_by(reader: Any, backbone: nn.Module) -> Beside:
    """Lets feedback read the encodings of a model that was trained before, and learns no more."""
    reader.eval().requires_grad_(False)

    def tell(inputs: Mapping[str, Tensor], lengths: Any) -> dict[str, Tensor]:
        with torch.no_grad():
            found: dict[str, Tensor] = reader.encode(inputs, lengths)
        return found

    return Beside(backbone, reader.encoding_sizes, tell)


class QuietFirstPass(TopDownLatch):
    """A latch whose first pass has no dropout."""

    def _run_first_pass(self, *arguments: Any, **options: Any) -> Any:
        training = self.backbone.training
        self.backbone.eval()
        try:
            return super()._run_first_pass(*arguments, **options)
        finally:
            self.backbone.train(training)


class BothPasses(nn.Module):
    """Predicts from the first pass, too, in training."""

    def __init__(self, latch: TopDownLatch) -> None:
        super().__init__()
        self.latch = latch

    def forward(self, inputs: Mapping[str, Tensor], lengths: Any = None) -> Any:
        """Returns a prediction, or in training those of both passes."""
        last = self.latch(inputs, lengths)
        if not self.training:
            return last
        with self.latch.disabled():
            return last, self.latch(inputs, lengths)


def loss_of_both(output: Any, labels: Tensor) -> Tensor:
    """Adds half of the error of the first pass."""
    last, first = output if isinstance(output, tuple) else (output, None)
    error = (last.view_as(labels) - labels).abs().mean()
    return cast(Tensor, error if first is None else error + 0.5 * (first.view_as(labels) - labels).abs().mean())


class WithTerm(nn.Module):
    """Returns another term of the loss beside the prediction, in training."""

    def __init__(self, latch: TopDownLatch, term: nn.Module) -> None:
        super().__init__()
        self.latch, self.term = latch, term

    def forward(self, inputs: Mapping[str, Tensor], lengths: Any = None) -> Any:
        """Returns a prediction, or in training that and the term."""
        if not self.training:
            return self.latch(inputs, lengths)
        trace = self.latch.trace(inputs, lengths)
        return trace.output, self.term(self.latch, trace, inputs, lengths)


def loss_with_term(output: Any, labels: Tensor) -> Tensor:
    """Adds a tenth of the term."""
    prediction, term = output if isinstance(output, tuple) else (output, 0.0)
    return cast(Tensor, (prediction.view_as(labels) - labels).abs().mean() + 0.1 * term)


class Sparsity(nn.Module):
    """The mean of each mask, summed: small where masks are."""

    def forward(self, latch: TopDownLatch, trace: LatchTrace, inputs: Mapping[str, Tensor], lengths: Any) -> Tensor:
        """Returns the term."""
        return torch.stack([mask.mean() for mask in trace.masks.values()]).sum()


class Entropy(nn.Module):
    """The mean entropy of each mask in nats, as its sources make it together, summed: small where masks are near 0 or 1."""

    def forward(self, latch: TopDownLatch, trace: LatchTrace, inputs: Mapping[str, Tensor], lengths: Any) -> Tensor:
        """Returns the term."""
        masks = [mask.clamp(1e-6, 1 - 1e-6) for mask in trace.masks.values()]  # at 0 and 1 the slope is infinite
        return torch.stack([(torch.special.entr(m) + torch.special.entr(1 - m)).mean() for m in masks]).sum()


class Reconstruction(nn.Module):
    """The squared error of inputs, averaged over time, as a linear map makes them from the few numbers of low-rank feedback.

    Of the target, as top-down networks elsewhere learn to, or of the source that is read.
    """

    def __init__(self, of: str, rank: int = 8) -> None:
        super().__init__()
        pairs = [(k, j) for k in SIZES for j in SIZES if j != k]
        self.made = {(k, j): {"target": k, "source": j}[of] for k, j in pairs}
        self.decoders = nn.ModuleDict({f"{k} from {j}": nn.Linear(rank, SIZES[made]) for (k, j), made in self.made.items()})

    def forward(self, latch: TopDownLatch, trace: LatchTrace, inputs: Mapping[str, Tensor], lengths: Any) -> Tensor:
        """Returns the term, the mean over pairs."""
        feedback, errors = cast(Mapping[str, Mapping[str, LowRank]], latch.feedback), list[Tensor]()
        for (k, j), made in self.made.items():
            few = feedback[k][j].few(trace.encodings[j], lengths)
            true = mean_over_time(inputs[made], lengths)
            errors.append((self.decoders[f"{k} from {j}"](few) - true).square().mean())
        return torch.stack(errors).mean()


def low_rank(**options: Any) -> Callable[[int, int], nn.Module]:
    """Makes a factory of low-rank feedback."""
    return lambda source, target: LowRank(source, target, **options)


def linear(**options: Any) -> Callable[[int, int], nn.Module]:
    """Makes a factory of linear feedback."""
    return lambda source, target: Linear(source, target, **options)
