"""The processes and devices of a run, by lightning-fabric."""

from __future__ import annotations

import logging
import os
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from lightning_fabric import Fabric


def make_fabric(device: str, partial: bool = False) -> Fabric:
    """A fabric on "cpu", "cuda", "cuda:N" or "mps". Under torchrun each process takes the device of its rank.

    `partial`: some steps use only a part of the network, which several processes have to be told.

    Precision is not the fabric's affair: it would round the images to bf16 before the network sees them.
    """
    import torch
    from lightning_fabric import Fabric

    logging.getLogger("lightning_fabric").setLevel(logging.WARNING)
    kind, _, index = device.partition(":")
    devices: Any = [int(index)] if index else 1
    nodes, strategy = 1, "auto"
    if "LOCAL_WORLD_SIZE" in os.environ:
        devices = int(os.environ["LOCAL_WORLD_SIZE"])
        nodes = int(os.environ["WORLD_SIZE"]) // devices
        ddp = "ddp_find_unused_parameters_true" if partial else "ddp"
        strategy = ddp if devices * nodes > 1 else "auto"
    fabric = Fabric(accelerator=kind, devices=devices, num_nodes=nodes, strategy=strategy, precision="32-true")
    fabric.launch()
    if kind == "cuda":
        torch.backends.cudnn.benchmark = True  # crops keep their size for a long time
        torch.set_float32_matmul_precision("high")
    return fabric
