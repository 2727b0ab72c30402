"""How much memory the maps of a forward pass need, from when each is made and let go."""

from __future__ import annotations

from typing import Any

from torch import Tensor
from torch.multiprocessing.reductions import StorageWeakRef
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves


class PeakActivations(TorchDispatchMode):
    """`peak`: most bytes at a time of tensors that operations within it made, and still are held.

    with torch.no_grad(), PeakActivations() as memory:
        model(torch.zeros(1, 3, 256, 256))

    Operation by operation; the scratch memory of an operation is not seen. On the meta device
    it costs next to nothing.
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
