"""Checks a file of tensors before PyTorch reads it, so that it costs no more than its size.

`torch.load(weights_only=True)` executes no code, but it unpacks compressed records of any size and
calls all of PyTorch's constructors, such as `bytearray(10**12)`. Here a file is refused unless its
records are stored as they are and its pickles build nothing but tensors and plain values.
"""

from __future__ import annotations

import io
import mmap
import zipfile
from pathlib import Path
from pickletools import genops
from typing import Any, BinaryIO

from torch import Tensor

KINDS = ("Float", "Double", "Half", "BFloat16", "Long", "Int", "Short", "Char", "Byte", "Bool")
KNOWN = {  # what a pickle may call
    "collections OrderedDict",
    "collections Counter",
    *(f"torch._utils _rebuild_{kind}" for kind in ("tensor", "tensor_v2", "parameter")),
    *(f"torch {kind}Storage" for kind in KINDS),
    "torch.storage UntypedStorage",
}
LEGACY_PICKLES = 5  # of PyTorch's old format; tensors follow them
MAX_BYTES = 2**33  # of a file; HigherHRNet-W48's checkpoint has 1.3 GB
MAX_VALUES, MAX_DEPTH, MAX_INT = 100_000, 32, 2**63  # of a checkpoint


def check_archive(file: BinaryIO, path: str | Path) -> None:
    """ValueError if the file of tensors is damaged, compressed or builds anything else."""
    if file.seek(0, io.SEEK_END) > MAX_BYTES:
        raise ValueError(f"{path} is no checkpoint: it has more than {MAX_BYTES} bytes")
    file.seek(0)
    start = file.read(4)
    try:
        if start == b"PK\x03\x04":
            _check_records(file, path)
        elif start:
            with mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as content:
                for _ in range(LEGACY_PICKLES):
                    _check_pickle(content, path)
    except (zipfile.BadZipFile, EOFError) as error:
        raise ValueError(f"{path} is damaged or no checkpoint: {error}") from None
    file.seek(0)


def plain(value: Any, size: int, path: str | Path) -> Any:
    """A copy of what PyTorch read from `path`, in dicts, lists and tensors without attributes.

    ValueError if it holds other types, or more than a file of `size` bytes can store.
    """
    return _Copy(size, path).of(value)


class _Copy:
    """Copies nested values, and counts them: a list may be referred to a billion times."""

    def __init__(self, size: int, path: str | Path) -> None:
        self.path = path
        self.room = size  # bytes of tensors that the file can still store
        self.count = 0
        self.storages: set[int] = set()  # addresses

    def of(self, value: Any, depth: int = 0) -> Any:
        self.count += 1
        if depth > MAX_DEPTH or self.count > MAX_VALUES:
            raise self.refused(f"more than {MAX_DEPTH} levels or {MAX_VALUES} values")
        if isinstance(value, dict):
            items = dict.items(value)
            return {self.of_key(key): self.of(one, depth + 1) for key, one in items}
        if isinstance(value, (list, tuple)):
            return [self.of(one, depth + 1) for one in value]
        if isinstance(value, Tensor):
            return self.of_tensor(value)
        if value is not None and type(value) not in (bool, int, float, str):
            raise self.refused(f"a {type(value).__name__}")
        if type(value) is int and abs(value) > MAX_INT:
            raise self.refused("an integer of more than 64 bits")
        return value

    def of_key(self, key: Any) -> str | int:
        if type(key) is int or (isinstance(key, str) and key.isprintable() and len(key) < 1000):
            return self.of(key)
        raise self.refused(f"a key that is no name: {ascii(key)[:40]}")

    def of_tensor(self, tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in self.storages:
            self.storages.add(storage.data_ptr())
            self.room -= storage.nbytes()
        if self.room < 0 or tensor.numel() * tensor.element_size() > storage.nbytes():
            raise self.refused("a tensor of more values than are stored")
        return tensor.detach()

    def refused(self, what: str) -> ValueError:
        return ValueError(f"{self.path} is no checkpoint: it holds {what}")


def _check_records(file: BinaryIO, path: str | Path) -> None:
    """Checksums (PyTorch does not check them), compression, and the pickles of an archive."""
    with zipfile.ZipFile(file) as archive:
        records = archive.infolist()
        size = file.seek(0, io.SEEK_END)
        if any(record.compress_type or record.flag_bits & 1 for record in records):
            raise ValueError(f"{path} is no checkpoint: its records are compressed or encrypted")
        if sum(record.file_size for record in records) > size:
            raise ValueError(f"{path} is damaged: its records are larger than the file")
        if bad := archive.testzip():
            raise ValueError(f"{path} is damaged: the checksum of {ascii(bad)} does not fit")
        for record in records:
            if record.filename.endswith(".pkl"):
                _check_pickle(io.BytesIO(archive.read(record)), path)


def _check_pickle(content: Any, path: str | Path) -> None:
    """ValueError if the pickle that starts in `content` calls anything that is not KNOWN."""
    try:
        calls = {
            str(argument or code.name)  # STACK_GLOBAL has its argument on the stack
            for code, argument, _ in genops(content)
            if code.name in ("GLOBAL", "STACK_GLOBAL", "INST")
        }
    except (ValueError, IndexError, OverflowError, MemoryError) as error:
        raise ValueError(f"{path} is damaged or no checkpoint: {ascii(str(error))}") from None
    if unknown := calls - KNOWN:
        raise ValueError(
            f"{path} is not a checkpoint of tensors and plain values; refused to unpickle "
            f"{ascii(min(unknown))[:80]}"
        )
