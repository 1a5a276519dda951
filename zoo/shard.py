"""FSDP2: parameters, gradients and optimizer state split over the data-parallel processes."""

from lightning.pytorch.strategies import ModelParallelStrategy, StrategyRegistry
from torch import nn


class FSDP2(ModelParallelStrategy):
    """Lightning's `ModelParallelStrategy`, all of it data-parallel.

    (Its own "auto" makes every device of a node tensor-parallel, which none of our nets are.) Full checkpoints by default,
    so that a run may be resumed on another number of devices.

    Args:
        save_distributed_checkpoint: write one shard per process instead of one file; for models past one host's memory.
        process_group_backend: nccl or gloo; None chooses by device.
    """

    def __init__(self, save_distributed_checkpoint: bool = False, process_group_backend: str | None = None):
        super().__init__(
            data_parallel_size="auto",
            tensor_parallel_size=1,
            save_distributed_checkpoint=save_distributed_checkpoint,
            process_group_backend=process_group_backend,
        )

    def setup_environment(self) -> None:
        self._data_parallel_size = self.num_nodes * self.num_processes
        super().setup_environment()


StrategyRegistry.register("fsdp2", FSDP2, description="FSDP2 over all devices: --trainer.strategy=fsdp2")


def shard(net: nn.Module, mesh) -> None:
    """Apply FSDP2 to every unit of the net and to the net itself, over the mesh's data-parallel axis.

    A unit is a module with `shard_entries`: the names of methods by which it is entered, beside `forward`. Nothing happens
    without a mesh (one process, or DDP). The net must then be entered by `net(batch)` alone.
    """
    if mesh is None:
        return
    from torch.distributed.fsdp import fully_shard, register_fsdp_forward_method

    for unit in [module for module in reversed(list(net.modules())) if hasattr(module, "shard_entries")]:  # children first
        fully_shard(unit, mesh=mesh["data_parallel"])
        for name in unit.shard_entries:
            register_fsdp_forward_method(unit, name)
    fully_shard(net, mesh=mesh["data_parallel"])
