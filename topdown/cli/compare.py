"""`topdown compare`: compares kinds of feedback on a data set."""

from __future__ import annotations

import dataclasses
import functools
import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Annotated, Any

from torch import nn

from topdown.cli.options import ModelOptions, refuse_unused
from topdown.cli.train import describe, load_for_training, read_earlier
from topdown.comparison.compare import Comparison, compare
from topdown.comparison.report import read_comparison, table, write_report
from topdown.datasets.errors import DataError
from topdown.datasets.files import check_writable, make_directory
from topdown.datasets.report import data_table
from topdown.experiments.run_files import NOT_SAVED
from topdown.feedback import Kind
from topdown.files import require
from topdown.training.distributed import world_size
from topdown.training.losses import class_weights
from topdown.training.model_file import Description, build_backbone
from topdown.training.options import FitOptions, Positive, Value
from topdown.training.progress import show_line


@dataclasses.dataclass(kw_only=True)
class CompareOptions(ModelOptions, FitOptions):
    """Options of `topdown compare`.

    Args:
        data: a folder of tables (.csv, .tsv, .parquet, .xlsx) or .csd files, one table (with --columns), an .npz, a store, or
            a pickle or HDF5 file of CMU-MOSEI or CMU-MOSI
        feedback: kinds of feedback: static, linear, lstm, shared; the control static is always included
        seeds: runs of each variant, with seeds 0 to N-1
        jobs: processes, each with one thread; by default one per core, or one on a GPU
        robust: test on corrupted data, too: noise, missing features, steps and modalities
        gaps: train each kind with randomly missing steps, too, and test it with up to 90 % of them missing
        no_alone: do not train models of single modalities
        no_diagnosis: do not train the rows that say why feedback helps or not: fusion by FiLM, masks averaged over time, and
            feedback that reads inputs
        resume: reuse the runs in --out; kinds, seeds and --robust may be added
        earlier: write the report of the comparison in DIR again, without DATA and without training
    """

    data: Annotated[Path | None, Value("DATA", Path, positional=True)] = None
    feedback: list[Kind] = dataclasses.field(default_factory=lambda: ["static", "linear", "lstm", "shared"])
    seeds: Positive = 10
    jobs: Positive | None = None
    robust: bool = False
    gaps: bool = False
    no_alone: bool = False
    no_diagnosis: bool = False
    resume: bool = False
    earlier: Annotated[Path | None, Value("DIR", Path, flag="--from")] = None


def build(sizes: Mapping[str, int], factor: float = 1.0, *, description: Description) -> nn.Module:
    """Makes a backbone for some modalities, wider by a factor; the paper's baseline where MulT has but one."""
    width = description.size or (100 if description.backbone == "lstm" else 40)
    step = 1 if description.backbone == "lstm" else 8  # the number of heads must divide the size
    size = description.size if factor == 1.0 else max(step, round(width * factor / step) * step)
    backbone = "lstm" if len(sizes) == 1 else description.backbone
    return build_backbone(description._replace(input_sizes=dict(sizes), size=size, backbone=backbone, latch=None))


def compare_command(options: CompareOptions) -> None:
    """Compares kinds of feedback on some data, or writes the report of an earlier comparison again."""
    require("scipy.stats", "experiments")
    require("matplotlib.figure", "plots")
    if options.earlier is not None and options.data is not None:
        raise DataError("--from writes the report of an earlier comparison again, without data: leave out DATA, or --from")
    if options.earlier is not None:
        names = {field.name for field in dataclasses.fields(options)} - {"earlier", "data", "out", "device"}
        refuse_unused(options, names, "has no effect with --from, which trains nothing: leave it out")
        if options.out is not None:
            make_directory(options.out)
        _finish(read_comparison(options.earlier), options.out or options.earlier)
        return
    if options.data is None:
        raise DataError("name the data to compare on, or an earlier comparison with --from")
    if world_size() > 1:
        raise DataError("compare starts processes of its own: leave out torchrun, and say --jobs")
    if options.resume and options.out is None:
        raise DataError("--resume needs --out: the directory of the comparison to go on with")
    out = options.out
    if out is not None:
        check_writable(out)
        if (out / "results.json").exists() and not (out / "runs").exists():
            raise DataError(f"{out}: holds the results of something else; choose another --out")
        make_directory(out)
    splits, task, moments = load_for_training(options.data, options)
    if "test" not in splits or splits["test"].labels is None:
        raise DataError(f"{options.data}: has no labelled split 'test', which is what is reported")
    if options.class_weight is not None:
        class_weights(options.class_weight, splits["train"].labels, task.loss)
    print(data_table(splits), flush=True)
    if out is None:
        print(NOT_SAVED, flush=True)
    description = describe(options.data, options, splits, task, "none")
    build_model: Callable[..., nn.Module] = functools.partial(build, description=description)
    aligned = all(data.aligned for data in splits.values())
    earlier = {} if out is None else read_earlier(out / "runs/configuration.json").get("training", {})
    batch_size, patience = options.batches(len(splits["train"]), earlier)
    more: dict[str, Any] = {"standardize_targets": True} if task.name == "regression" and not options.raw else {}
    for name in ("class_weight", "feedback_learning_rate"):
        more |= {name: value} if (value := getattr(options, name)) is not None else {}
    comparison = compare(
        build_model,
        splits,
        feedback=[*dict.fromkeys(options.feedback)],
        latch=options.latch(aligned=aligned),
        widen=build_model,
        task=task,
        seeds=options.seeds,
        jobs=options.jobs or _cores(options.device),
        alone=not options.no_alone,
        robust=options.robust,
        gaps=options.gaps,
        diagnose=not options.no_diagnosis,
        out=out,
        resume=options.resume,
        about={"model": description._asdict(), "standardized": moments is not None},
        say=show_line,
        epochs=options.epochs,
        batch_size=batch_size,
        learning_rate=options.learning_rate,
        patience=patience,
        device=options.device,
        **more,
    )
    _finish(comparison, out)


def _cores(device: str) -> int:
    """Returns the number of processes: one per available core, or one on a GPU."""
    if not device.startswith("cpu"):
        return 1
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _finish(comparison: Comparison, out: Path | None) -> None:
    print(f"\n{table(comparison)}", flush=True)
    if out is not None:
        print(f"Written to {out}: {', '.join(write_report(comparison, out))}, runs")
