"""The paper's public model written down plainly: the denominator of the speed ratios.

Packed LSTMs on batches padded in random order, explicit softmax, one small module per equation, gradients through both
passes. Parameters have the names of the public code (georgepar/mmlatch), so `mmlatch_from_reference` turns its state dict
into our model, and the two can be checked against each other.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import pack_padded_sequence, pad_packed_sequence

SIZES = {"text": 300, "audio": 74, "visual": 35}
SOURCES = {"text": ("audio", "visual"), "audio": ("text", "visual"), "visual": ("text", "audio")}


class PlainLSTM(nn.Module):
    """Runs an LSTM over packed sequences, all as long as the batch, as the public collator has it."""

    def __init__(self, size: int, hidden: int, *, bidirectional: bool) -> None:
        super().__init__()
        self.rnn = nn.LSTM(size, hidden, batch_first=True, bidirectional=bidirectional)

    def forward(self, x: Tensor) -> Tensor:
        """Maps (B, T, D) to (B, T, H) or (B, T, 2H)."""
        lengths = torch.full((x.shape[0],), x.shape[1])
        packed = pack_padded_sequence(x, lengths, batch_first=True, enforce_sorted=False)
        states: Tensor = pad_packed_sequence(self.rnn(packed)[0], batch_first=True)[0]
        return states


class PlainAttention(nn.Module):
    """Single-head attention with an explicit softmax."""

    def __init__(self, size: int, dropout: float) -> None:
        super().__init__()
        self.q, self.k, self.v = (nn.Linear(size, size, bias=False) for _ in range(3))
        self.dropout = nn.Dropout(dropout)

    def forward(self, x: Tensor, queries: Tensor) -> Tensor:
        """Attends from queries (B, T, D) to x (B, T, D)."""
        scores = torch.bmm(self.q(queries), self.k(x).transpose(1, 2)) / x.shape[-1] ** 0.5
        return torch.bmm(self.dropout(torch.softmax(scores, -1)), self.v(x))


class PlainSymmetric(nn.Module):
    """Two cross-modal attentions with a residual each, summed."""

    def __init__(self, size: int, dropout: float) -> None:
        super().__init__()
        self.kx, self.qx, self.vx, self.ky, self.qy, self.vy = (nn.Linear(size, size, bias=False) for _ in range(6))
        self.dropout = nn.Dropout(dropout)

    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        """Maps two encodings (B, T, D) to one."""
        scale = x.shape[-1] ** 0.5
        to_x = torch.softmax(torch.bmm(self.qy(y), self.kx(x).transpose(1, 2)) / scale, -1)
        to_y = torch.softmax(torch.bmm(self.qx(x), self.ky(y).transpose(1, 2)) / scale, -1)
        return torch.bmm(self.dropout(to_x), self.vx(x)) + y + torch.bmm(self.dropout(to_y), self.vy(y)) + x


class PlainAttentive(nn.Module):
    """A bidirectional LSTM followed by self-attention."""

    def __init__(self, size: int, hidden: int, *, summed: bool, dropout: float) -> None:
        super().__init__()
        self.rnn = PlainLSTM(size, hidden, bidirectional=True)
        self.attention = PlainAttention(hidden if summed else 2 * hidden, dropout)
        self.dropout = nn.Dropout(dropout)
        self.summed = summed

    def forward(self, x: Tensor) -> Tensor:
        """Maps (B, T, D) to (B, T, H) when directions are summed, else to (B, T, 2H)."""
        states = self.rnn(x)
        if self.summed:
            half = states.shape[-1] // 2
            states = states[..., :half] + states[..., half:]
        states = self.dropout(states)
        attended: Tensor = self.attention(states, states)
        return attended


class PlainModel(nn.Module):
    """Predicts sentiment, with or without feedback.

    Args:
        feedback: Whether six LSTMs mask the inputs.
        size: Size of all hidden states.
    """

    def __init__(self, feedback: bool, size: int = 100) -> None:
        super().__init__()
        self.feedback = feedback
        fuser = nn.ModuleDict({pair: PlainSymmetric(size, 0.1) for pair in ("ta", "va", "tv")})
        fuser["tav"] = PlainAttention(size, 0.1)
        self.encoder = nn.ModuleDict(
            {k: nn.ModuleDict({"encoder": PlainAttentive(D, size, summed=True, dropout=0.2)}) for k, D in SIZES.items()}
        )
        last = PlainAttentive(7 * size, size, summed=False, dropout=0.1)
        self.encoder["fuser"] = nn.ModuleDict({"att_fuser": fuser, "rnn": last})
        self.classifier = nn.Linear(2 * size, 1)
        if feedback:
            self.encoder["fm"] = nn.ModuleDict(
                {
                    f"f{unit}": nn.ModuleDict(
                        {f"mask{branch}": PlainLSTM(size, SIZES[target], bidirectional=False) for branch in (1, 2)}
                    )
                    for unit, target in enumerate(SIZES, start=1)
                }
            )
        self.mask_dropout = nn.Dropout(0.2)

    def forward(self, inputs: Mapping[str, Tensor]) -> Tensor:
        """Maps inputs (B, T, D_k) to (B, 1)."""
        if self.feedback:
            seen = self._encode(inputs)
            masked = {}
            for unit, (target, sources) in enumerate(SOURCES.items(), start=1):
                branches = self.encoder["fm"][f"f{unit}"]  # type: ignore[index]
                f = [torch.sigmoid(branches[f"mask{i}"](seen[source])) for i, source in enumerate(sources, start=1)]
                masked[target] = inputs[target] * self.mask_dropout(0.5 * (f[0] + f[1]))
            inputs = masked
        t, a, v = self._encode(inputs).values()
        fuser = self.encoder["fuser"]["att_fuser"]  # type: ignore[index]
        ta, va, tv = fuser["ta"](t, a), fuser["va"](v, a), fuser["tv"](t, v)
        fused = torch.cat([t, a, v, ta, tv, va, fuser["tav"](t, va)], -1)
        prediction: Tensor = self.classifier(self.encoder["fuser"]["rnn"](fused).sum(1))  # type: ignore[index]
        return prediction

    def _encode(self, inputs: Mapping[str, Tensor]) -> dict[str, Tensor]:
        return {k: self.encoder[k]["encoder"](inputs[k]) for k in SIZES}  # type: ignore[index]
