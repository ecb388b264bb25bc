"""The sentiment experiment from one command: every kind of feedback with every seed, tables, masks and checkpoints."""

from __future__ import annotations

import argparse
import json
import platform
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

import topdown
from topdown.experiments.data import DataError, SequenceDataset
from topdown.experiments.figures import draw_masks, relevance_auc, sentiment_profile, write_mask_table
from topdown.experiments.files import check_writable, make_directory, require, write_json, write_text
from topdown.experiments.metrics import sentiment_metrics
from topdown.experiments.mult_pickle import load_splits
from topdown.experiments.options import FREE_OPTIONS, KINDS, ORACLE, sentiment_parser
from topdown.experiments.reporting import data_table, show_epochs
from topdown.experiments.synthetic import NOTE, synthetic_splits
from topdown.experiments.tables import full_report, gap_closed, summarize
from topdown.experiments.training import fit, load_checkpoint, predict, save_checkpoint
from topdown.feedback import FEEDBACK_KINDS
from topdown.latch import TopDownLatch

Build = Callable[[Mapping[str, int]], nn.Module]


def run_sentiment(argv: Sequence[str] | None, *, name: str, baseline: str, build: Build) -> None:
    """Runs the experiment as a command.

    Args:
        argv: The command line, without the program; sys.argv[1:] by default.
        name: Of the experiment, for results.json.
        baseline: What to call the model without feedback.
        build: Makes the backbone from the features of each modality.

    Raises:
        SystemExit: with status 2 after one line on standard error, if an option or the data cannot be used; with 130 if
            interrupted.
    """
    parser = sentiment_parser(name)
    options = parser.parse_args(argv)
    if options.resume and options.out is None:
        parser.error("--resume needs --out: the directory of the run to go on with")
    try:
        _Experiment(options, name=name, baseline=baseline, build=build).run()
    except (DataError, ImportError) as error:
        parser.error(str(error))
    except KeyboardInterrupt:
        where = f"; go on with --resume --out {options.out}" if options.out else ""
        print(f"{parser.prog}: interrupted{where}", file=sys.stderr)
        raise SystemExit(130) from None


class _Experiment:
    """One command, from its options to its files."""

    def __init__(self, options: argparse.Namespace, *, name: str, baseline: str, build: Build) -> None:
        self.options = options
        self.name = name
        self.build = build
        self.synthetic = options.data is None
        self.wanted = [*dict.fromkeys(options.feedback), *([ORACLE] if self.synthetic else [])]
        self.names = {kind: f"{baseline} + MMLatch ({kind})" for kind in FEEDBACK_KINDS}
        self.names |= {"none": baseline, ORACLE: f"{baseline}, irrelevant features removed (oracle)"}
        self.runs: list[dict[str, Any]] = []
        self.relevance: dict[str, dict[str, Tensor]] = {}
        self.splits: dict[str, SequenceDataset] = {}

    def run(self) -> None:
        out: Path | None = self.options.out
        self._check_device()
        if out is not None:
            require("matplotlib.figure")  # before hours of training, not after
            check_writable(out)
            self._read_earlier_runs(out)
        self._load()
        if out is not None:
            make_directory(out)
            make_directory(out / "checkpoints")
            self._write_results(complete=False)
        print(data_table(self.splits), flush=True)
        for seed in range(self.options.seeds):
            for kind in self.wanted:
                if not any(run["kind"] == kind and run["seed"] == seed for run in self.runs):
                    self._train(kind, seed)
        self.runs.sort(key=lambda run: ((*KINDS, ORACLE).index(run["kind"]), run["seed"]))
        self._write_results(complete=True)
        counts = ", ".join(f"N {split} = {len(data)}" for split, data in self.splits.items())
        table = full_report(self.runs, self.names, source=f"{self._note()} {counts}.")
        print(f"\n{table}", flush=True)
        if out is not None:
            write_text(out / "table.md", table + "\n")
            self._write_masks(out)
            print(f"Written to {out}: {', '.join(sorted(path.name for path in out.iterdir()))}")

    def _check_device(self) -> None:
        try:
            torch.empty(0, device=self.options.device)
        except (RuntimeError, AssertionError) as error:
            reason = str(error).partition("\n")[0]
            raise DataError(f"--device {self.options.device}: not available here ({reason}); use cpu") from None

    def _load(self) -> None:
        if self.synthetic:
            count = self.options.samples
            print(f"{NOTE}\n", flush=True)
            self.splits, self.relevance = synthetic_splits((count, max(1, count // 5), max(1, count * 2 // 5)))
        else:
            self.splits = load_splits(self.options.data)

    def _read_earlier_runs(self, out: Path) -> None:
        path = out / "results.json"
        if not path.exists():
            return
        if not self.options.resume:
            raise DataError(f"{path}: holds the results of an earlier run; go on with --resume, or choose another --out")
        try:
            earlier = json.loads(path.read_text(encoding="utf-8"))
            configuration, runs = earlier["configuration"], earlier["runs"]
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise DataError(f"{path}: not the results of this experiment ({error}); choose another --out") from None
        for option, value in self._configuration().items():
            if configuration.get(option) != value:
                raise DataError(
                    f"{path}: was made with {option} {configuration.get(option)}, not {value}; "
                    "repeat the options of the earlier run, or choose another --out"
                )
        self.runs = list(runs)

    def _configuration(self) -> dict[str, Any]:
        configuration = {k: v for k, v in vars(self.options).items() if k not in FREE_OPTIONS}
        if not self.synthetic:
            configuration["data"] = str(self.options.data.resolve())
            configuration["samples"] = None
        return {"experiment": self.name, **configuration}

    def _note(self) -> str:
        return NOTE if self.synthetic else f"Measured on {self._source()}."

    def _source(self) -> str:
        return "SYNTHETIC DATA" if self.synthetic else str(self.options.data.name)

    def _splits_for(self, kind: str) -> dict[str, SequenceDataset]:
        if kind != ORACLE:
            return self.splits
        return {split: data.masked(self.relevance[split]) for split, data in self.splits.items()}

    def _model(self, kind: str, seed: int) -> nn.Module:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)  # the same initial backbone for every kind
            backbone = self.build(self.splits["train"].sizes)
            return backbone if kind in ("none", ORACLE) else TopDownLatch(backbone, kind)  # type: ignore[arg-type]

    def _checkpoint(self, kind: str, seed: int, *, unfinished: bool = False) -> Path | None:
        out: Path | None = self.options.out
        return None if out is None else out / "checkpoints" / f"{kind}-seed{seed}{'.unfinished' if unfinished else ''}.pt"

    def _train(self, kind: str, seed: int) -> None:
        options = self.options
        splits = self._splits_for(kind)
        model = self._model(kind, seed)
        unfinished = self._checkpoint(kind, seed, unfinished=True)
        if unfinished is not None and not options.resume:
            unfinished.unlink(missing_ok=True)
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
                checkpoint=unfinished,
                on_epoch=show,
            )
        outputs = {
            split: predict(model, splits[split], batch_size=options.batch_size, device=options.device)
            for split in ("valid", "test")
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
        finished = self._checkpoint(kind, seed)
        if finished is not None:
            state = {
                "model": model.cpu().state_dict(),
                "kind": kind,
                "seed": seed,
                "epoch": result.best_epoch,
                "input_sizes": splits["train"].sizes,
                "data": self._source(),
            }
            save_checkpoint(state, finished)
        self.runs.append(run)
        self._write_results(complete=False)
        if unfinished is not None:
            unfinished.unlink(missing_ok=True)

    def _write_results(self, *, complete: bool) -> None:
        if self.options.out is None:
            return
        summary = summarize(self.runs)
        content = {
            "note": self._note(),
            "complete": complete,
            "command": " ".join([Path(sys.argv[0]).name, *sys.argv[1:]]),
            "date": time.strftime("%Y-%m-%dT%H:%M:%S%z"),
            "configuration": self._configuration(),
            "versions": versions(),
            "data": {split: data.report for split, data in self.splits.items()},
            "runs": self.runs,
            "summary": summary,
            "share_of_oracle_gap_closed": gap_closed(summary),
        }
        write_json(self.options.out / "results.json", content)

    def _write_masks(self, out: Path) -> None:
        profiles = {}
        for run in self.runs:
            kind, seed = run["kind"], run["seed"]
            model, path = self._model(kind, seed), self._checkpoint(kind, seed)
            if isinstance(model, TopDownLatch) and path is not None:
                model.load_state_dict(load_checkpoint(path)["model"])
                profiles[kind, seed] = sentiment_profile(model, self.splits["test"], device=self.options.device)
        write_mask_table(out / "masks.csv", profiles, data=self._source())
        if profiles:
            best = {kind: entry["best_seed"] for kind, entry in summarize(self.runs).items()}
            title = f"Mean top-down mask per feature and sentiment class, test split of {self._source()}"
            draw_masks(out / "masks.png", profiles, best=best, title=title)


def versions() -> dict[str, Any]:
    """Returns the versions of what results depend on, and the threads of torch."""
    return {
        "python": platform.python_version(),
        "torch": torch.__version__,
        "numpy": np.__version__,
        "topdown": topdown.__version__,
        "threads": torch.get_num_threads(),
        "machine": platform.machine(),
    }
