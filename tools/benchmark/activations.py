"""Memory of the maps of a forward pass: the peak of all together, and the traffic."""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn
from torch.multiprocessing.reductions import StorageWeakRef
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from lib.utils.complexity import watch_layers


class PeakActivations(TorchDispatchMode):
    """`peak`: the largest sum of bytes of the tensors that were created within it and still exist.

    with torch.no_grad(), PeakActivations() as memory:
        model(torch.zeros(1, 3, 256, 256))

    Counted operation by operation, without the scratch memory of an operation. On the meta device
    it takes almost no time.
    """

    def __init__(self) -> None:
        super().__init__()
        self._held: dict[StorageWeakRef, int] = {}
        self.peak = 0

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple = (), kwargs: dict | None = None
    ) -> Any:
        result = func(*args, **(kwargs or {}))
        for tensor in tree_leaves(result):
            if isinstance(tensor, Tensor):
                storage = tensor.untyped_storage()
                self._held[StorageWeakRef(storage)] = storage.nbytes()
        self._held = {ref: size for ref, size in self._held.items() if not ref.expired()}
        self.peak = max(self.peak, sum(self._held.values()))
        return result


def traffic(network: nn.Module, images: Tensor) -> int:
    """Bytes that the layers read and write for `images` (B, 3, H, W), without weights."""
    total = 0

    def add(layer: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:
        nonlocal total
        total += inputs[0].nbytes + output.nbytes

    watch_layers(network, images, add)
    return total
