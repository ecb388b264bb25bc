"""What stays out of compiled graphs. Imported only while compiling, since it loads the compiler."""

from __future__ import annotations

import torch

from topdown.recurrence import run_lstm

# In training, torch's compiler cannot take its own fused LSTM for CPUs into a graph: its backward pass is unknown to it.
run_lstm_uncompiled = torch.compiler.disable(run_lstm)
