"""Masks beside attributions of captum: what the model was allowed to see, and what it used.

    pip install 'topdown-latch[models]'; python examples/attributions.py

On the data of gate.py: at each step half of the channels are noise, and a flag tells which. A mask says what passed; integrated
gradients (Sundararajan et al., 2017) say how much the prediction owes to each channel. For a latch the inputs reach the
prediction in two ways, as what is masked and through the mask, and both are counted.
"""

from __future__ import annotations

import torch
from captum.attr import IntegratedGradients
from gate import Sensors, samples, train
from torch import Tensor

from topdown import TopDownLatch


def main(epochs: int = 10) -> None:
    """Prints the mean mask and the mean attribution of noise and of the other channels."""
    torch.manual_seed(0)
    latch = TopDownLatch(Sensors(), "linear", sources={"signal": ["flag"]}, encoder_grad=True, example_inputs=samples(2, 0)[0])
    train(latch, epochs)
    inputs, labels, relevant = samples(200, seed=3)

    def logits(signal: Tensor, flag: Tensor) -> Tensor:
        output: Tensor = latch(signal=signal, flag=flag)
        return output

    features = (inputs["signal"], inputs["flag"])
    attributions, _ = IntegratedGradients(logits).attribute(features, target=labels, n_steps=20)
    used, seen = attributions.abs(), latch.masks(inputs)["signal"]
    for name, chosen in (("noise", relevant == 0), ("others", relevant == 1)):
        print(f"{name:7s} mean mask {seen[chosen].mean():.2f}, mean attribution {used[chosen].mean():.2f}")
    together = torch.corrcoef(torch.stack([seen.flatten(), used.flatten()]))[0, 1]
    print(f"correlation of masks and attributions over channels, steps and samples: {together:.2f}")


if __name__ == "__main__":
    main()
