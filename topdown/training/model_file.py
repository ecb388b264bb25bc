"""Saves a model with a description from which it can be built again, and loads it."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from topdown.adapters import LSTMBackbone, MulTBackbone
from topdown.datasets.corruption import Moments
from topdown.datasets.data import SequenceDataset
from topdown.datasets.errors import DataError
from topdown.datasets.labels import labelled
from topdown.latch import TopDownLatch
from topdown.training.checkpoints import load_checkpoint, save_checkpoint
from topdown.training.random_state import seeded
from topdown.training.scaled_output import ScaledOutput, TargetMoments
from topdown.training.tasks import Task, with_label_type

FORMAT = "topdown model, version 1"


class Description(NamedTuple):
    """Describes a model in plain values, from which it can be built.

    Args:
        backbone: "lstm", the paper's baseline, or "mult".
        input_sizes: Features of each modality.
        task: Task that it is for.
        size: Size d of the encodings; None for that of the paper. (Default: None)
        layers: Layers of MulT's transformers. (Default: 4)
        dropout: Dropout of the backbone; None for that of the paper. (Default: None)
        latch: Options of the latch; None for the backbone alone. (Default: None)
    """

    backbone: str
    input_sizes: dict[str, int]
    task: Task
    size: int | None = None
    layers: int = 4
    dropout: float | None = None
    latch: dict[str, Any] | None = None


def build_backbone(description: Description) -> nn.Module:
    """Builds the backbone of a description.

    Raises:
        DataError: if its options do not fit one another, or the data.
    """
    _, sizes, task, size, layers, dropout, _ = description
    try:
        if description.backbone == "lstm":
            return LSTMBackbone(
                sizes, hidden_size=size or 100, output_size=task.output_size, dropout=0.2 if dropout is None else dropout
            )
        width = size or 40
        heads = max(heads for heads in range(1, 9) if width % heads == 0)
        embedding, rest = (0.3, 0.1) if dropout is None else (dropout, dropout)  # the paper of MulT, Table 5
        return MulTBackbone(
            sizes,
            size=width,
            num_heads=heads,
            num_layers=layers,
            output_size=task.output_size,
            embedding_dropout=embedding,
            relu_dropout=rest,
            residual_dropout=rest,
        )
    except ValueError as error:
        raise DataError(str(error)) from None


def build_model(description: Description, seed: int, target: TargetMoments | None = None) -> nn.Module:
    """Builds a model. With the same seed, the backbone has the same initial values with any latch, and with none.

    Args:
        description: Description of the model.
        seed: Random seed.
        target: Mean and standard deviation of the targets: see :class:`topdown.training.ScaledOutput`. (Default: outputs are
            not scaled)

    Raises:
        DataError: if its options do not fit one another, or the data.
    """
    with seeded(seed):
        backbone = build_backbone(description)
        backbone = backbone if target is None else ScaledOutput(backbone, *target)
        if description.latch is None:
            return backbone
        try:
            return TopDownLatch(backbone, **description.latch)
        except ValueError as error:
            raise DataError(str(error)) from None


class Trained(NamedTuple):
    """Holds a trained model with its description.

    Args:
        model: Model with its weights, in evaluation mode.
        description: Description of it.
        moments: Moments by which its data is standardized; None if it is not.
        about: Other metadata: seed, epoch, data, names of features.
    """

    model: nn.Module
    description: Description
    moments: dict[str, Moments] | None
    about: dict[str, Any]

    def prepare(self, data: SequenceDataset, where: str) -> SequenceDataset:
        """Returns data in the form that the model was trained on.

        Raises:
            DataError: if the data has other modalities, features or labels than those that the model learned from.
        """
        data = data.as_sequences() if data.vectors else data
        sizes = self.description.input_sizes
        if missing := [name for name in sizes if name not in data.sizes]:
            raise DataError(f"{where} has no {missing[0]!r}, which the model takes; it has {list(data.sizes)}")
        data = data.choose(list(sizes))
        if data.sizes != sizes:
            raise DataError(f"{where} has features {data.sizes}, but the model takes {sizes}")
        for name, wanted in (self.about.get("feature_names") or {}).items():
            columns = (data.report.get("feature_names") or {}).get(name, wanted)
            if name in sizes and columns != wanted:
                remedy = "put its columns in the order in which the model learned them"
                raise DataError(f"{where}: {name!r} has the columns {columns}, but the model takes {wanted}: {remedy}")
        if data.labels is not None:
            data = data.relabeled(self._labels(data, where))
        learned, names = self.about.get("label_names"), data.report.get("label_names")
        if learned and names and data.labels is not None and learned != names:
            raise DataError(f"{where} has the labels {names}, but the model learned {learned}: put them in that order")
        data = with_label_type(data, self.description.task)
        return data if self.moments is None else data.standardized(self.moments)

    def _labels(self, data: SequenceDataset, where: str) -> Tensor | None:
        """Returns labels with the class numbers of the training.

        Raises:
            DataError: if only the data or only the model has class names, or the model did not learn a class.
        """
        learned, classes = self.about.get("class_names"), data.report.get("class_names")
        labels: Tensor | None = data.labels
        if learned == classes or labels is None:
            return labels
        if learned is None or classes is None:
            said = [f"classes {names}" if names else "numbers" for names in (classes, learned)]
            raise DataError(f"{where} has {said[0]} as labels, but the model learned {said[1]}: use the same words")
        if unknown := [name for name in classes if name not in learned]:
            raise DataError(f"{where} has the class {unknown[0]!r}, but the model learned {learned}; leave it out")
        numbers: Tensor = torch.tensor([learned.index(name) for name in classes], device="cpu")
        return torch.where(labelled(labels), numbers[labels.clamp(min=0)], labels)


def save_model(
    path: Path, model: nn.Module, description: Description, moments: Mapping[str, Moments] | None, about: Mapping[str, Any]
) -> None:
    """Writes a model with its description, so that `torch.load(path, weights_only=True)` can read it."""
    state: dict[str, Any] = {"format": FORMAT, "model": {k: v.cpu() for k, v in model.state_dict().items()}}
    state["description"] = {**description._asdict(), "task": description.task._asdict()}
    state["moments"] = None if moments is None else {name: tuple(pair) for name, pair in moments.items()}
    save_checkpoint({**state, **about}, path)


def load_model(path: str | Path) -> Trained:
    """Loads a model from the file that `topdown train` wrote, without running code.

    Args:
        path: Path of the file, such as results/model.pt.

    Raises:
        DataError: if the file holds no such model.
    """
    path = Path(path)
    if path.is_dir():
        raise DataError(f"{path}: is a directory; name the file in it, such as {path / 'model.pt'}")
    if path.name == "model.pt" and not path.exists() and path.with_name("training.pt").exists():
        raise DataError(f"{path}: is not there yet, since its training has not ended; go on with train --resume")
    try:
        state = load_checkpoint(path)
    except DataError as error:
        remedy = "; give the model.pt of a training"
        raise DataError(str(error).replace("; delete it to train anew", remedy)) from None
    if not isinstance(state, dict) or state.get("format") != FORMAT:
        raise DataError(f"{path}: is not a {FORMAT}, which `topdown train` writes")
    try:
        fields = state.pop("description")
        description = Description(**{**fields, "task": Task(**fields["task"])})
        model = build_model(description, 0, state.get("target"))
        model.load_state_dict(state.pop("model"))
        moments = state.pop("moments")
        by_name = None if moments is None else {name: Moments(*pair) for name, pair in moments.items()}
    except (AttributeError, KeyError, RuntimeError, TypeError, ValueError) as error:
        raise DataError(f"{path}: is damaged ({str(error).splitlines()[0]}); train it again") from None
    return Trained(model.eval(), description, by_name, state)
