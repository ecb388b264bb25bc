"""Trains a latch that is sharded over processes beside one that is not, and compares them; see test_distributed.py."""

import gc
import json

import torch
import torch.distributed as dist
from torch.distributed.checkpoint.state_dict import StateDictOptions, get_model_state_dict
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard

from topdown import TopDownLatch
from topdown.adapters import LSTMBackbone, MulTBackbone

SIZES = {"text": 12, "audio": 7, "visual": 5}
BACKBONES = {
    "lstm": lambda: LSTMBackbone(SIZES, hidden_size=8, dropout=0.0),
    "mult": lambda: MulTBackbone(SIZES, size=8, num_heads=2, num_layers=2),
}


def train(name):
    torch.manual_seed(0)
    whole = TopDownLatch(BACKBONES[name](), "lstm").eval()
    sharded = TopDownLatch(BACKBONES[name](), "lstm").eval()
    sharded.load_state_dict(whole.state_dict())
    fully_shard(sharded, mesh=init_device_mesh("cpu", (dist.get_world_size(),)))
    inputs, lengths = {k: torch.randn(4, 9, size) for k, size in SIZES.items()}, torch.tensor([9, 5, 3, 1])
    for model in (whole, sharded):
        optimizer = torch.optim.Adam(model.parameters(), lr=0.01)
        for _ in range(3):
            optimizer.zero_grad()
            model(inputs, lengths).sum().backward()
            optimizer.step()
    state = get_model_state_dict(sharded, options=StateDictOptions(full_state_dict=True, cpu_offload=True))
    if dist.get_rank() == 0:
        loaded = TopDownLatch(BACKBONES[name](), "lstm").eval()
        untrained = loaded(inputs, lengths).detach()
        loaded.load_state_dict(state)
        difference = (loaded(inputs, lengths) - whole(inputs, lengths)).abs().max().item()
        moved = (loaded(inputs, lengths) - untrained).abs().max().item()
        return {"difference": difference, "moved": moved, "parameters": type(next(sharded.parameters())).__name__}
    return None


def main(path):
    dist.init_process_group("gloo")
    found = {name: train(name) for name in BACKBONES}
    if dist.get_rank() == 0:
        path.write_text(json.dumps(found))
    dist.barrier()
    gc.collect()
    dist.destroy_process_group()
