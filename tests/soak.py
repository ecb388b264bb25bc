"""Does anything grow? Calls latches 20,000 times: sites, hooks, a compiled latch, threads; counts memory and live tensors.

    python tests/soak.py [--calls 20000]

After a tenth of the calls everything is warm. From there the memory of the process and the number of live tensors may not grow
by more than 1 %. It fails otherwise.
"""

from __future__ import annotations

import argparse
import gc
import resource
import sys
import threading
import time
from pathlib import Path

import torch
from torch import nn

from topdown import TopDownLatch
from topdown.adapters import HookedBackbone, LSTMBackbone
from topdown.training.versions import versions

SIZES = {"text": 6, "audio": 4}
MARGIN = 1.01


class Chain(nn.Module):
    """A model whose layers are read and masked by hooks."""

    def __init__(self) -> None:
        super().__init__()
        self.text, self.audio, self.head = nn.Linear(6, 5), nn.Linear(4, 5), nn.Linear(5, 1)

    def forward(self, text, audio):
        return self.head(torch.tanh(self.text(text)).mean(1) + torch.tanh(self.audio(audio)).mean(1))


def resident() -> int:
    """Returns the bytes that the process holds."""
    status = Path("/proc/self/statm")
    if status.exists():
        return int(status.read_text().split()[1]) * resource.getpagesize()
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def tensors() -> int:
    """Returns the number of live tensors."""
    gc.collect()
    return sum(issubclass(type(found), torch.Tensor) for found in gc.get_objects())


def make_calls():
    """Returns what is called in turn: training with sites and hooks, inference with lengths, compiled, disabled, in threads."""

    def batch():
        return {name: torch.randn(3, 5, size) for name, size in SIZES.items()}, torch.tensor([5, 2, 4])

    hooked = HookedBackbone(Chain(), {"text": "text", "audio": "audio"})
    sites = TopDownLatch(hooked, "linear", sites={"text": "text", "audio": "audio"}, example_inputs=batch()[0])
    plain = TopDownLatch(LSTMBackbone(SIZES, hidden_size=4), "lstm").eval()
    compiled = torch.compile(TopDownLatch(LSTMBackbone(SIZES, hidden_size=4), "linear").eval(), backend="eager")
    optimizer = torch.optim.Adam(sites.parameters())

    def train():
        inputs, _ = batch()
        handle = sites.backbone.user_model.head.register_forward_hook(lambda module, arguments, output: output * 1.0)
        optimizer.zero_grad(set_to_none=True)
        sites(**inputs).square().mean().backward()
        optimizer.step()
        handle.remove()

    def infer():
        with torch.no_grad():
            plain.trace(*batch())

    def infer_compiled():
        with torch.no_grad():
            compiled(*batch())

    def disable():
        with torch.no_grad(), plain.disabled():
            plain(*batch())

    def in_threads():
        started = [threading.Thread(target=infer) for _ in range(2)]
        for thread in started:
            thread.start()
        for thread in started:
            thread.join()

    return [train, infer, infer_compiled, disable, in_threads]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--calls", type=int, default=20_000)
    options = parser.parse_args()
    torch.set_num_threads(1)
    start, calls, found = time.time(), make_calls(), []
    for number in range(options.calls):
        calls[number % len(calls)]()
        if (number + 1) % (options.calls // 10) == 0:
            found.append((resident(), tensors()))
            print(f"{number + 1} calls: {found[-1][0] / 2**20:.1f} MiB, {found[-1][1]} tensors", flush=True)
    growth = [last / first for first, last in zip(found[0], found[-1], strict=True)]
    print(f"memory {growth[0]:.4f}, tensors {growth[1]:.4f} of what there was after {options.calls // 10} calls")
    print(f"{time.time() - start:.0f} s, {time.strftime('%Y-%m-%d')}, {versions()}")
    if max(growth) > MARGIN:
        sys.exit("it grows")


if __name__ == "__main__":
    main()
