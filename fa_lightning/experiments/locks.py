"""One run at a time in a stage's folder: a file beside it says who is at work there."""

from __future__ import annotations

import json
import os
import socket
from contextlib import ExitStack
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
from lightning.pytorch.utilities import rank_zero_only
from typing_extensions import Self, override

from fa_lightning.errors import UserError

Owner = dict[str, Any]
"""`host`, `process` (its id), `began` (tells it from a later process of the same id) and `since`."""


def lock_of(folder: Path) -> Path:
    """The lock of a stage's folder: beside it, so that the folder can be deleted while it is held."""
    folder = folder.resolve()
    return folder.with_name(f".{folder.name}.lock")


class FolderLocks:
    """The locks that this process holds, until the block ends. Rank zero holds them for all ranks."""

    def __init__(self) -> None:
        self._held: list[Path] = []

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.release_all()

    def take(self, folder: Path) -> None:
        """Take the lock of a folder; one that this process or its parent holds already is enough.

        A lock whose owner ran on this host and is dead is taken over.

        Raises:
            UserError: another run is at work there, or was on another host; who, and what to do.
        """
        if getattr(rank_zero_only, "rank", 0):
            return
        path = lock_of(folder)
        path.parent.mkdir(parents=True, exist_ok=True)
        while not _create(path):
            owner = _owner_of(path)
            if owner is None:
                continue
            if owner["host"] != socket.gethostname():
                raise UserError(
                    f"{folder} is in use by process {owner['process']} on host {owner['host']} since {owner['since']}: "
                    f"wait until it ends. If it is gone, delete {_shown(path)} and run again"
                )
            if _is_alive(owner):
                if owner["process"] in (os.getpid(), os.getppid()):
                    return
                raise UserError(
                    f"{folder} is in use by process {owner['process']} of this host since {owner['since']}: wait until "
                    "it ends, or end it, and run again"
                )
            if _take_over(path, owner):
                break
        self._held.append(path)

    def release(self, folder: Path) -> None:
        """Give a lock back; one that is not held is left alone."""
        self._release(lock_of(folder))

    def release_all(self) -> None:
        """Give all locks back."""
        for path in list(self._held):
            self._release(path)

    def _release(self, path: Path) -> None:
        if path not in self._held:
            return
        self._held.remove(path)
        owner = _owner_of(path)
        # A child that was forked holds nothing.
        if owner is not None and owner["process"] == os.getpid() and owner["host"] == socket.gethostname():
            path.unlink(missing_ok=True)


class FitLock(pl.Callback):
    """Holds the lock of the folder that a fit keeps its checkpoints in; every fit gets one."""

    def __init__(self) -> None:
        self._locks = FolderLocks()

    @override
    def setup(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        folder = getattr(trainer.checkpoint_callback, "dirpath", None)
        if stage == "fit" and folder:
            self._locks.take(Path(folder))

    @override
    def teardown(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        self._locks.release_all()

    @override
    def on_exception(self, trainer: pl.Trainer, pl_module: pl.LightningModule, exception: BaseException) -> None:
        self._locks.release_all()


def _create(path: Path) -> bool:
    """Make the lock this process's, in one step; False where there is one already."""
    fresh = _written(path)
    try:
        # Unlike an open for writing, it has its content from the first moment on.
        os.link(fresh, path)
    except FileExistsError:
        return False
    except OSError:
        # A file system without links.
        try:
            with path.open("x", encoding="utf-8") as file:
                file.write(fresh.read_text(encoding="utf-8"))
        except FileExistsError:
            return False
    finally:
        fresh.unlink(missing_ok=True)
    return True


def _written(path: Path) -> Path:
    fresh = path.with_name(f"{path.name}.{socket.gethostname()}.{os.getpid()}")
    own = {
        "host": socket.gethostname(),
        "process": os.getpid(),
        "began": began(os.getpid()),
        "since": datetime.now(timezone.utc).isoformat(" ", "seconds"),
    }
    fresh.write_text(json.dumps(own), encoding="utf-8")
    return fresh


def _owner_of(path: Path) -> Owner | None:
    """Who holds a lock; None where it is gone by now.

    Raises:
        UserError: it does not say.
    """
    try:
        owner = json.loads(path.read_text(encoding="utf-8"))
        return {name: owner[name] for name in ("host", "process", "began", "since")}
    except FileNotFoundError:
        return None
    except (ValueError, KeyError, TypeError) as error:
        raise UserError(
            f"{_shown(path)} is a lock that does not say whose: make sure that no other run is at work, and delete it"
        ) from error


def _take_over(path: Path, dead: Owner) -> bool:
    """Replace a dead owner's lock; False where another process was quicker."""
    with ExitStack() as stack:
        if os.name == "posix":
            import fcntl

            try:
                file = stack.enter_context(path.open("r+b"))
            except FileNotFoundError:
                return False
            # Whoever waits here finds another owner behind, in a file of its own.
            fcntl.flock(file, fcntl.LOCK_EX)
        if _owner_of(path) != dead:
            return False
        os.replace(_written(path), path)
        return True


def _is_alive(owner: Owner) -> bool:
    """Whether a process of this host still runs."""
    process = int(owner["process"])
    if os.name == "nt":
        return _is_alive_on_windows(process)
    try:
        # Asks, and sends nothing.
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        pass
    return bool(began(process) == owner["began"])


def _is_alive_on_windows(process: int) -> bool:
    import ctypes

    kernel: Any = ctypes.windll.kernel32  # type: ignore[attr-defined]
    handle = kernel.OpenProcess(0x1000, False, process)
    if not handle:
        return False
    status = ctypes.c_ulong()
    kernel.GetExitCodeProcess(handle, ctypes.byref(status))
    kernel.CloseHandle(handle)
    return bool(status.value == 259)


def began(process: int) -> str:
    """When a process began, since another one may have its id later; empty where the system does not tell.

    `ended` for one that has ended and that nobody has asked about yet.
    """
    try:
        # The name comes second, in parentheses, and may hold spaces.
        fields = Path(f"/proc/{process}/stat").read_text(encoding="utf-8").rpartition(")")[2].split()
    except OSError:
        return ""
    return "ended" if fields[0] in "ZX" else fields[19]


def _shown(path: Path) -> str:
    return os.path.relpath(path) if path.is_relative_to(Path.cwd()) else str(path)
