"""A test module that runs itself in two CPU processes: each works through its cases, the first one leaves what was found."""

import subprocess
import sys
from collections.abc import Callable, Iterable
from pathlib import Path

import torch
import torch.distributed as dist

ROOT = Path(__file__).parents[1]


def work(trained: Callable, cases: Iterable[tuple]) -> None:
    """In a process: `trained(*case, rank, mesh)` of every case. The command line says which process it is, and where to meet."""
    from torch.distributed.device_mesh import init_device_mesh

    rank, folder = int(sys.argv[1]), sys.argv[2]
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{folder}/store", rank=rank, world_size=2)
    mesh = init_device_mesh("cpu", (2,))
    results = {case: trained(*case, rank, mesh) for case in cases}
    if rank == 0:
        torch.save(results, f"{folder}/results.pt")
    dist.destroy_process_group()


def results(file: str, folder: Path) -> dict[tuple, tuple]:
    """Case -> what the first process found, of a test module (its `__file__`) that calls `work` when it is run."""
    module = ".".join(Path(file).relative_to(ROOT).with_suffix("").parts)
    command = [sys.executable, "-m", module]
    processes = [subprocess.Popen([*command, str(rank), str(folder)], cwd=ROOT) for rank in range(2)]
    assert [p.wait(300) for p in processes] == [0, 0]
    return torch.load(folder / "results.pt", weights_only=True)
