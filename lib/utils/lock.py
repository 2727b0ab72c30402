"""A lock on a folder that one program at a time writes into, and that no dead process keeps.

Two rules, as none holds on every file system:

1. The kernel locks the file LOCK in it (fcntl) until the process ends, however it dies. Forks, such
   as loader processes, do not inherit the lock. NFS keeps it for all hosts, unless mounted with
   `nolock` or `local_lock`; then each host has its own locks.
2. The holder touches the file every BEAT seconds. So a file of another host counts, even if the
   kernel would lock it, until it has not been touched for STALE seconds. This is also the rule on a
   file system without locks. Ages are on the clock of the file system: those of hosts may differ.
"""

from __future__ import annotations

import contextlib
import errno
import io
import json
import logging
import os
import platform
import tempfile
import threading
import time
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from lib.utils.cli import MISTAKE
from lib.utils.dist import ALONE, Process, from_main
from lib.utils.files import reported

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None

logger = logging.getLogger(__name__)

LOCK = "in_use.json"  # in the folder
BEAT, STALE = 10.0, 60.0  # seconds


@contextlib.contextmanager
def holding(folder: Path, process: Process = ALONE) -> Iterator[None]:
    """A context in which no other program holds `folder`; rank 0 holds it for all processes.

    ValueError, in all processes, names the holder: host, process id and when it started. A process
    whose folder another host has taken over, as after a pause of STALE seconds, ends at once.
    """
    lock = FolderLock(folder)
    from_main(process, lock.acquire)
    try:
        yield
    finally:
        lock.release()


class FolderLock:
    """The lock of one process, not yet acquired."""

    def __init__(self, folder: Path) -> None:
        self.path = folder / LOCK
        since = time.strftime("%Y-%m-%d %H:%M:%S")
        self.entry = {"host": platform.node(), "pid": os.getpid(), "since": since}
        self.entry["id"] = uuid.uuid4().hex  # process ids repeat
        self._file: io.FileIO | None = None
        self._ended = threading.Event()

    def acquire(self) -> None:
        """ValueError if another process holds the folder; waits for STALE seconds to know it."""
        first_touch = None
        while True:
            with reported(self.path):
                file, is_exact = self._open()
                holder = read_entry(file)
                touch = os.fstat(file.fileno()).st_mtime_ns
                is_ours = is_exact and holder.get("host") == self.entry["host"]
                if not holder or is_ours or self._now() - touch > STALE * 1e9:
                    break
            file.close()  # NFS has the new time after the next opening
            if first_touch is None:
                logger.info("%s: waiting to see whether %s is alive", self.path, name_of(holder))
            elif touch != first_touch:
                raise self._refusal(holder)
            first_touch = touch
            time.sleep(min(1, STALE / 10))
        text = json.dumps(self.entry).encode()
        with reported(self.path):
            file.seek(0)
            file.truncate()
            if file.write(text) < len(text):
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        self._file = file
        threading.Thread(target=self._beat, args=(file,), daemon=True).start()

    def release(self) -> None:
        """Give the folder free; nothing happens if it was not acquired."""
        self._ended.set()
        if self._file is None:
            return
        with contextlib.suppress(OSError):
            if read_entry(self._file) == self.entry:
                self.path.unlink()  # first: whoever locks it later, finds that it is gone
        self._file.close()
        self._file = None

    def _open(self) -> tuple[io.FileIO, bool]:
        """The file, locked, and whether the kernel locks it; ValueError if it is locked already."""
        flags = os.O_RDWR | os.O_CREAT | getattr(os, "O_NOFOLLOW", 0)
        while True:
            file = io.FileIO(os.open(self.path, flags, 0o666), "r+")
            try:
                is_exact = lock_file(file)
            except BlockingIOError:
                with file:
                    raise self._refusal(read_entry(file)) from None
            with contextlib.suppress(FileNotFoundError):
                if os.path.samestat(os.fstat(file.fileno()), self.path.stat()):
                    return file, is_exact
            file.close()  # its holder has just removed it

    def _beat(self, file: io.FileIO) -> None:
        while not self._ended.wait(BEAT):
            with contextlib.suppress(OSError, ValueError):  # ValueError: closed meanwhile
                holder = read_entry(file)
                if holder != self.entry and not self._ended.is_set():
                    logger.error("%s: taken over by %s; ending", self.path, name_of(holder))
                    os._exit(MISTAKE)  # now: whatever else is written may damage its files
                os.utime(self.path)

    def _now(self) -> int:
        """Nanoseconds on the clock of the file system."""
        with tempfile.TemporaryFile(dir=self.path.parent) as file:
            file.write(b"\n")
            file.flush()
            return os.fstat(file.fileno()).st_mtime_ns

    def _refusal(self, holder: dict[str, Any]) -> ValueError:
        return ValueError(
            f"{self.path.parent} is in use by {name_of(holder)}; stop that process, or write into "
            "another folder"
        )


def lock_file(file: io.FileIO) -> bool:
    """Lock a file; False where the system has no locks. BlockingIOError if it is locked already."""
    if fcntl is None:
        return False
    try:
        fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        if error.errno in (errno.EACCES, errno.EAGAIN):
            raise BlockingIOError from None
        return False
    return True


def read_entry(file: io.FileIO) -> dict[str, Any]:
    """Who holds the file of a lock; {} if nobody has written it yet, or not to its end."""
    file.seek(0)
    try:
        entry = json.loads(file.read(10_000) or b"{}")
    except ValueError:
        return {}
    return entry if isinstance(entry, dict) else {}


def name_of(holder: dict[str, Any]) -> str:
    if not holder:
        return "another process"
    host, pid, since = (holder.get(key, "unknown") for key in ("host", "pid", "since"))
    return f"host {host}, process {pid}, since {since}"
