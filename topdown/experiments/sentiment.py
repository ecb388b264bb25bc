"""The sentiment experiment from one command: every kind of feedback with every seed, tables, masks and checkpoints."""

from __future__ import annotations

import argparse
import contextlib
import os
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from topdown.experiments.data import SequenceDataset
from topdown.experiments.distributed import process_group, rank, wait, world_size
from topdown.experiments.errors import DataError
from topdown.experiments.figures import draw_masks, relevance_auc, sentiment_profile, write_mask_table
from topdown.experiments.files import check_writable, make_directory, require, write_json, write_text
from topdown.experiments.load import load_splits
from topdown.experiments.metrics import sentiment_metrics
from topdown.experiments.options import FREE_OPTIONS, KINDS, ORACLE, data_options, sentiment_parser
from topdown.experiments.reporting import data_table, show_epochs
from topdown.experiments.results import check_no_runs, checkpoint_path, read_runs, versions
from topdown.experiments.synthetic import NOTE, synthetic_splits
from topdown.experiments.tables import Published, full_report, gap_closed, summarize
from topdown.experiments.training import fit, load_checkpoint, predict, save_checkpoint
from topdown.feedback import FEEDBACK
from topdown.latch import TopDownLatch
from topdown.masking import Align

Build = Callable[[Mapping[str, int], argparse.Namespace], nn.Module]


class Experiment(NamedTuple):
    """What tells one sentiment experiment from another.

    Args:
        name: For results.json.
        baseline: What to call the model without feedback.
        build: Makes the backbone from the features of each modality and the options.
        published: The rows of the paper to set beside the results.
        add_options: Adds options of its own to the command line, and changes defaults.
        align: Of the latches: see :class:`topdown.TopDownLatch`.
        protocol: Further options of :func:`topdown.experiments.training.fit`.
    """

    name: str
    baseline: str
    build: Build
    published: Published
    add_options: Callable[[argparse.ArgumentParser], None] | None = None
    align: Align = "error"
    protocol: Mapping[str, Any] = MappingProxyType({})


def run_sentiment(argv: Sequence[str] | None, experiment: Experiment) -> None:
    """Runs an experiment as a command.

    Args:
        argv: The command line, without the program; sys.argv[1:] by default.
        experiment: Which.

    Raises:
        SystemExit: with status 2 after one line on standard error, if an option or the data cannot be used; with 130 if
            interrupted; with 1 if nothing reads its output any more.
    """
    parser = sentiment_parser(experiment.name)
    if experiment.add_options is not None:
        experiment.add_options(parser)
    options = parser.parse_args(argv)
    if options.resume and options.out is None:
        parser.error("--resume needs --out: the directory of the run to go on with")
    if options.data is not None and options.samples is not None:
        parser.error("--samples is for synthetic data: leave it out, or leave out --data")
    for name, value in {**data_options(options), "subset": options.subset}.items():
        if options.data is None and value is not None:
            parser.error(
                f"--{name.removesuffix('s') if name == 'streams' else name} is for --data: leave it out, or name a file"
            )
    for stream in (sys.stdout, sys.stderr):  # a terminal without "±" or a name that is no text must not end a run
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="replace")
    try:
        with contextlib.ExitStack() as stack:
            options.device = stack.enter_context(process_group(options.device))
            if rank():  # the first process speaks for all
                stack.enter_context(contextlib.redirect_stdout(stack.enter_context(open(os.devnull, "w"))))
            _Run(options, experiment).run()
    except (DataError, ImportError) as error:
        parser.error(str(error))
    except BrokenPipeError:  # as `| head` does
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # or Python complains at its end
        print(f"{parser.prog}: stopped, since nothing reads its output any more{_how_to_go_on(options)}", file=sys.stderr)
        raise SystemExit(1) from None
    except OSError as error:
        parser.error(f"{error.filename or options.out}: {error.strerror}; free some space or choose another --out")
    except KeyboardInterrupt:
        print(f"{parser.prog}: interrupted{_how_to_go_on(options)}", file=sys.stderr)
        raise SystemExit(130) from None


def _how_to_go_on(options: argparse.Namespace) -> str:
    return f"; go on with --resume --out {options.out}" if options.out else ""


class _Run:
    """One command, from its options to its files."""

    def __init__(self, options: argparse.Namespace, experiment: Experiment) -> None:
        self.options = options
        self.experiment = experiment
        baseline = experiment.baseline
        self.synthetic = options.data is None
        self.wanted = [*dict.fromkeys(options.feedback), *([ORACLE] if self.synthetic else [])]
        self.names = {kind: f"{baseline} + MMLatch ({kind})" for kind in FEEDBACK}
        self.names |= {"none": baseline, ORACLE: f"{baseline}, irrelevant features removed (oracle)"}
        self.source = "SYNTHETIC DATA" if self.synthetic else options.data.name.encode("utf-8", "replace").decode()
        self.note = NOTE if self.synthetic else f"Measured on {self.source}."
        self.writes = options.out is not None and rank() == 0
        self.configuration: dict[str, Any] = {}
        self.runs: list[dict[str, Any]] = []
        self.relevance: dict[str, dict[str, Tensor]] = {}
        self.splits: dict[str, SequenceDataset] = {}
        self.sha256 = ""

    def run(self) -> None:
        out: Path | None = self.options.out
        self._check_device()
        if sys.stdout.isatty():
            require("tqdm")
        if out is not None:
            require("matplotlib.figure")  # before hours of training, not after
            check_writable(out)
            check_no_runs(out, resume=self.options.resume)
        self._load()
        if out is not None:
            self.configuration = self._configure()
            self.runs = read_runs(out, self.configuration)
        self._check_data()
        wait()  # until all have seen the directory as it was
        if out is not None and self.writes:
            make_directory(out)
            make_directory(out / "checkpoints")
            self._write_results(complete=False)
        wait()
        print(data_table(self.splits), flush=True)
        self._train_all()
        self.runs.sort(key=lambda run: ((*KINDS, ORACLE).index(run["kind"]), run["seed"]))
        self._write_results(complete=True)
        counts = ", ".join(
            f"N {split} = {len(data)}" + (f" of {data.report['subset_of']['samples']}" if "subset_of" in data.report else "")
            for split, data in self.splits.items()
        )
        table = full_report(self.runs, self.names, source=f"{self.note} {counts}.", published=self.experiment.published)
        if out is not None and self.writes:
            write_text(out / "table.md", table + "\n")
        print(f"\n{table}", flush=True)
        if out is not None and self.writes:
            drawn = self._write_masks(out)
            written = ["results.json", "table.md", "masks.csv", *(["masks.png"] if drawn else []), "checkpoints"]
            print(f"Written to {out}: {', '.join(written)}")

    def _check_device(self) -> None:
        device = self.options.device
        try:
            torch.zeros(1, device=device).item()
        except (RuntimeError, AssertionError, NotImplementedError) as error:
            reason = "no such device" if "Expected one of" in str(error) else str(error).partition("\n")[0]
            raise DataError(f"--device {device}: not available here ({reason}); use cpu") from None

    def _configure(self) -> dict[str, Any]:
        configuration = {k: v for k, v in vars(self.options).items() if k not in FREE_OPTIONS}
        configuration |= {k: str(v) for k, v in configuration.items() if isinstance(v, Path)}
        if self.synthetic:
            configuration["samples"] = self.options.samples or 1000
        else:
            configuration |= {"data": self.source, "sha256": self.sha256}
            configuration.pop("aligned", None)  # the file says
        return {"experiment": self.experiment.name, **configuration}

    def _load(self) -> None:
        if not self.synthetic:
            self.splits = load_splits(self.options.data, **data_options(self.options))
            if missing := [split for split in ("train", "valid", "test") if split not in self.splits]:
                there = list(self.splits)
                raise DataError(f"{self.options.data}: has no {missing[0]}; call its splits train, valid and test, not {there}")
            source = self.splits["train"].report["source"]
            self.sha256 = source["sha256"]
            names = ", ".join(self.splits["train"].sizes)
            self.note = f"Measured on {self.source} ({source['name']}, {source['layout']}), with {names}."
            asked, flags = getattr(self.options, "aligned", None), {True: "--aligned", False: "--unaligned"}
            for split, data in self.splits.items():
                if asked not in (None, data.aligned):
                    found, wanted = flags[data.aligned][2:], flags[asked]
                    raise DataError(f"{self.options.data}: {split} is {found}, not {wanted[2:]}; leave out {wanted}")
                self._check_labels(split, data)
                if self.options.subset is not None and self.options.subset < len(data):
                    self.splits[split] = data.subset(torch.arange(self.options.subset) * len(data) // self.options.subset)
            return
        print(f"{NOTE}\n", flush=True)
        count = self.options.samples or 1000
        counts = (count, max(1, count // 5), max(1, count * 2 // 5))
        try:
            self.splits, self.relevance = synthetic_splits(counts, unaligned=getattr(self.options, "aligned", None) is False)
        except (RuntimeError, MemoryError):
            raise DataError(f"--samples {count}: too many for the memory of this machine; ask for fewer") from None

    def _check_labels(self, split: str, data: SequenceDataset) -> None:
        where, labels = f"{self.options.data}: {split} has labels", data.labels
        if labels.dim() != 1 or not labels.is_floating_point():
            found = f"of {labels.dtype} of shape {tuple(labels.shape)}"
            raise DataError(f"{where} {found}; this experiment predicts one sentiment, a floating-point number for each sample")
        if not -3.01 < float(labels.min()) <= float(labels.max()) < 3.01:
            raise DataError(f"{where} from {float(labels.min()):g} to {float(labels.max()):g}; sentiment lies in [-3, 3]")

    def _check_data(self) -> None:
        """Asks the backbone for a prediction of every split, before anything is written."""
        backbone = self.experiment.build(self.splits["train"].sizes, self.options).eval()
        for split, data in self.splits.items():
            # A sample whose modalities differ in length, if there is one: not every model takes it.
            steps = torch.stack(list(data.lengths.values()))
            batch = data.batch([int((steps.amax(0) - steps.amin(0)).argmax())])
            try:
                with torch.inference_mode():
                    backbone(batch.inputs, batch.lengths)
            except ValueError as error:
                raise DataError(f"{self.options.data}: {split}: {error}") from None

    def _train_all(self) -> None:
        asked = [(seed, kind) for seed in range(self.options.seeds) for kind in self.wanted]
        there = {(run["seed"], run["kind"]) for run in self.runs}
        if there:
            print(f"{len(there.intersection(asked))} of {len(asked)} runs are there already", flush=True)
        for seed, kind in asked:
            if (seed, kind) not in there:
                self._train(kind, seed)

    def _splits_for(self, kind: str) -> dict[str, SequenceDataset]:
        if kind != ORACLE:
            return self.splits
        return {split: data.masked(self.relevance[split]) for split, data in self.splits.items()}

    def _model(self, kind: str, seed: int) -> nn.Module:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)  # the same initial backbone for every kind
            backbone = self.experiment.build(self.splits["train"].sizes, self.options)
            if kind in ("none", ORACLE):
                return backbone
            return TopDownLatch(backbone, kind, align=self.experiment.align)  # type: ignore[arg-type]

    def _train(self, kind: str, seed: int) -> None:
        options = self.options
        splits = self._splits_for(kind)
        model = self._model(kind, seed)
        unfinished = None if options.out is None else checkpoint_path(options.out, kind, seed, unfinished=True)
        if unfinished is not None and not options.resume and self.writes:
            unfinished.unlink(missing_ok=True)
        wait()
        with show_epochs(f"{kind} seed {seed}", options.epochs) as show:
            result = fit(
                model,
                splits["train"],
                splits["valid"],
                seed=seed,
                learning_rate=options.learning_rate,
                batch_size=options.batch_size,
                epochs=options.epochs,
                patience=options.patience,
                device=options.device,
                workers=options.workers,
                checkpoint=unfinished,
                on_epoch=show,
                **self.experiment.protocol,
            )
        outputs = {
            k: predict(model, splits[k], batch_size=options.batch_size, device=options.device) for k in ("valid", "test")
        }
        run: dict[str, Any] = {
            "kind": kind,
            "seed": seed,
            "metrics": sentiment_metrics(outputs["test"], splits["test"].labels),
            "validation": sentiment_metrics(outputs["valid"], splits["valid"].labels),
            "validation_loss": result.best_loss,
            "best_epoch": result.best_epoch,
            "epochs": len(result.history),
            "seconds": sum(record["seconds"] for record in result.history),
            "parameters": sum(p.numel() for p in model.parameters()),
            "history": result.history,
        }
        if self.relevance and isinstance(model, TopDownLatch):
            run["relevance_auc"] = relevance_auc(model, splits["test"], self.relevance["test"], device=options.device)
        if self.writes:
            state = {
                "model": model.cpu().state_dict(),
                "kind": kind,
                "seed": seed,
                "epoch": result.best_epoch,
                "input_sizes": splits["train"].sizes,
                "data": self.source,
            }
            save_checkpoint(state, checkpoint_path(options.out, kind, seed))
        self.runs.append(run)
        self._write_results(complete=False)
        if unfinished is not None and self.writes:
            unfinished.unlink(missing_ok=True)

    def _write_results(self, *, complete: bool) -> None:
        if not self.writes:
            return
        closed = {k: {"share": s, "gap": g, "seeds": n} for k, (s, g, n) in gap_closed(self.runs).items()}
        content = {
            "note": self.note,
            "complete": complete,
            "command": " ".join([Path(sys.argv[0]).name, *sys.argv[1:]]).encode("utf-8", "replace").decode(),
            "date": time.strftime("%Y-%m-%dT%H:%M:%S%z"),
            "configuration": self.configuration,
            "device": self.options.device,
            "processes": world_size(),
            "versions": versions(),
            "data": {split: data.report for split, data in self.splits.items()},
            "runs": self.runs,
            "summary": summarize(self.runs),
            "share_of_oracle_gap_closed": closed,
        }
        write_json(self.options.out / "results.json", content)

    def _write_masks(self, out: Path) -> bool:
        profiles = {}
        for run in self.runs:
            model = self._model(run["kind"], run["seed"])
            if isinstance(model, TopDownLatch):
                path = checkpoint_path(out, run["kind"], run["seed"])
                try:
                    model.load_state_dict(load_checkpoint(path)["model"])
                except (KeyError, RuntimeError):
                    raise DataError(f"{path}: of another model; delete it and go on with --resume") from None
                profiles[run["kind"], run["seed"]] = sentiment_profile(model, self.splits["test"], device=self.options.device)
        write_mask_table(out / "masks.csv", profiles, data=self.source)
        if profiles:
            best = {kind: entry["best_seed"] for kind, entry in summarize(self.runs).items()}
            title = f"Mean top-down mask per feature and sentiment class, test split of {self.source}"
            draw_masks(out / "masks.png", profiles, best=best, title=title)
        return bool(profiles)
