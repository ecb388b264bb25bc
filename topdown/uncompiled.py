"""What stays out of compiled graphs. Imported only while compiling, since it loads the compiler."""

from __future__ import annotations

import torch

from topdown.sequence import run_lstm

# torch's compiler cannot take its own fused LSTM for CPUs into a graph: "expected Tensor() for op: mkldnn_rnn_layer".
run_lstm_uncompiled = torch.compiler.disable(run_lstm)
