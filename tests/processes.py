"""Runs functions in processes that fork from a server which has imported torch once, in place of new interpreters."""

import multiprocessing
import os
import socket

CONTEXT = multiprocessing.get_context("forkserver")
CONTEXT.set_forkserver_preload(["topdown.experiments", "topdown.training", "topdown.datasets", "h5py", "torch._dynamo"])


def start(function, *arguments, environment=None):
    process = CONTEXT.Process(target=_call, args=(environment or {}, function, arguments))
    process.start()
    return process


def _call(environment, function, arguments):
    import torch

    os.environ.update(environment)
    torch.set_num_threads(1)
    function(*arguments)


def run_group(count, function, *arguments):
    """Runs a function in each process of a group, with the environment that torchrun gives them; returns their exit codes."""
    with socket.socket() as free:
        free.bind(("localhost", 0))
        port = free.getsockname()[1]
    address = {"MASTER_ADDR": "localhost", "MASTER_PORT": str(port), "WORLD_SIZE": str(count), "TORCHELASTIC_RUN_ID": "tests"}
    group = [start(function, *arguments, environment={**address, "RANK": str(i), "LOCAL_RANK": str(i)}) for i in range(count)]
    for process in group:
        process.join(120)
    return [process.exitcode for process in group]
