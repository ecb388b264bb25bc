"""The paper's Table 1: its baseline without and with MMLatch, published figures beside, and whether the difference is luck.

python benchmarks/table1.py --data mosei_senti_data.pkl --seeds 5 --out build/table1
"""

from __future__ import annotations

from common.paper import load, names, options, rows, run_lstm, show

from topdown.experiments.tables import PUBLISHED_LSTM


def main() -> None:
    """Prints the table."""
    chosen = options(__doc__)
    splits, source = load(chosen.data)
    found = run_lstm(splits, ["lstm"], chosen)
    show(source, rows(found, names("Baseline", {"lstm": "MMLatch"})), PUBLISHED_LSTM, [found.verdict])


if __name__ == "__main__":
    main()
