"""The paper's Table 2: feedback without an LSTM, and MMLatch around MulT; with the controls that the paper does not have.

python benchmarks/table2.py --data mosei_senti_data.pkl --seeds 5 --out build/table2
"""

from __future__ import annotations

from common.paper import load, names, options, rows, run_lstm, run_mult, show

from topdown.experiments.tables import PUBLISHED_LSTM, PUBLISHED_MULT

KINDS = {"static": "a static mask", "linear": "MMLatch (no LSTM)", "lstm": "MMLatch", "shared": "MMLatch (shared LSTMs)"}


def main() -> None:
    """Prints the table."""
    chosen = options(__doc__)
    splits, source = load(chosen.data)
    lstm, mult = run_lstm(splits, list(KINDS), chosen), run_mult(splits, ["lstm"], chosen)
    lines = rows(lstm, names("Baseline", KINDS)) + rows(mult, names("MulT", {"lstm": "MMLatch"}))
    verdicts = [f"Baseline: {lstm.verdict}", f"MulT: {mult.verdict}"]
    show(source, lines, {**PUBLISHED_LSTM, **PUBLISHED_MULT}, verdicts)


if __name__ == "__main__":
    main()
