"""A network that another runtime than PyTorch computes, in the place of the network."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import torch
from torch import Tensor, nn

from lib.deploy.export import any_size_program, onnx_content
from lib.deploy.fold import fold_norms
from lib.deploy.graph import OfPixels
from lib.deploy.session import load_runtime, open_session
from lib.utils.transforms import STRIDE


class CompiledNetwork(nn.Module):
    """images (B, 3, H, W) uint8 RGB -> [(B, C, h, w)], on the CPU. It normalizes the images itself.

    It has no weights that PyTorch could train.
    """

    takes_pixels = True  # `lib.core.images.input_of` leaves the normalization to it

    def __init__(
        self, run: Callable[[np.ndarray], Sequence[np.ndarray]], one_by_one: bool = False
    ) -> None:
        """run: images (B, H, W, 3) uint8 -> outputs; one_by_one: it takes B = 1 only."""
        super().__init__()
        self.run, self.one_by_one = run, one_by_one
        self.device = nn.Parameter(torch.zeros(()), requires_grad=False)  # which inputs are sent to

    @classmethod
    def convert(
        cls, network: nn.Module, runtime: str, threads: int = 0, callers: int = 1
    ) -> CompiledNetwork:
        """`network` with its BatchNorms folded, in some ten seconds.

        H and W are multiples of 64. runtime: one of `lib.deploy.session.RUNTIMES`; threads: 0: as
        many as PyTorch uses; callers: as in `open_session`.
        """
        load_runtime(runtime)  # before the conversion: it may be missing
        example = torch.zeros(2, 3 * STRIDE, 4 * STRIDE, 3).byte()
        program = any_size_program(OfPixels(fold_norms(network)), example, rows=1)
        stages = [f"stage{i}" for i in range(len(program.graph_signature.user_outputs))]
        threads = threads or torch.get_num_threads()
        return cls(open_session(onnx_content(program, stages), runtime, threads, callers))

    def forward(self, images: Tensor) -> list[Tensor]:
        pixels = images.permute(0, 2, 3, 1).contiguous().numpy()
        if not self.one_by_one:
            return [torch.from_numpy(output) for output in self.run(pixels)]
        outputs = [self.run(image[None]) for image in pixels]
        return [torch.from_numpy(np.concatenate(maps)) for maps in zip(*outputs, strict=True)]
