"""The native kernels: finds or compiles the library and calls it.

Looked for in this order: a library in this folder (built into the wheel), one in the cache folder, a
compiler. Nothing here raises for a machine that has none of them; the caller goes on with another source.
ctypes releases the GIL during a call.
"""

from __future__ import annotations

import contextlib
import ctypes
import hashlib
import os
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from rfctl.converter.quantization.native.build import (
    BuildError,
    compile_library,
    find_compiler,
    library_suffix,
    platform_id,
    source_id,
)
from rfctl.converter.quantization.type import tensor_type

TYPES = ("Q4_0", "Q4_1", "Q5_0", "Q5_1", "Q8_0", "Q2_K", "Q3_K", "Q4_K", "Q5_K", "Q6_K")
# Numbers of quantize.c: (from, to) in the storage dtypes of the converter.
CONVERSIONS = {("BF16", "F32"): 0, ("F16", "F32"): 1, ("F32", "BF16"): 2, ("F32", "F16"): 3}
_STORAGE = {"BF16": np.uint16, "F16": np.uint16, "F32": np.float32}
_FOLDER = Path(__file__).parent
_RETRY_AFTER_S = 86400.0


@dataclass(frozen=True)
class NativeKernel:
    """A loaded library. `level`: the instruction set; `rank`: its place among those of this machine."""

    path: Path
    level: str
    rank: int
    _library: Any

    def quantize(self, type_name: str, rows: npt.NDArray[np.float32], out: npt.NDArray[np.uint8]) -> None:
        """`rows` in one of TYPES.

        rows  float32, (n, columns), C-contiguous, finite; columns a multiple of the type's block
        out   uint8, (n, row bytes), C-contiguous
        Raises ValueError for a type or a buffer that does not fit.
        """
        kind = tensor_type(type_name)
        _need(rows, np.float32, rows.size)
        _need(out, np.uint8, rows.shape[0] * kind.row_bytes(rows.shape[1]))
        blocks = rows.size // kind.block
        if self._library.rfctl_kernel_quantize(
            self.rank, kind.number, rows.ctypes.data, out.ctypes.data, blocks
        ):
            raise ValueError(f"no native kernel makes {type_name}")

    def convert(
        self, source: str, target: str, values: npt.NDArray[Any], out: npt.NDArray[Any]
    ) -> int | None:
        """`values` of dtype `source` as `target`, a pair of CONVERSIONS, into `out`.

        values, out  C-contiguous, equal size; uint16 bits for BF16 and F16, float32 for F32
        Returns the flat index of the first value that is not finite, None when all are.
        Raises ValueError for a pair or a buffer that does not fit.
        """
        if (source, target) not in CONVERSIONS:
            raise ValueError(f"no native conversion from {source} to {target}")
        _need(values, _STORAGE[source], values.size)
        _need(out, _STORAGE[target], values.size)
        first: int = self._library.rfctl_kernel_convert(
            self.rank, CONVERSIONS[source, target], values.ctypes.data, out.ctypes.data, values.size
        )
        return None if first < 0 else first

    def at_levels(self) -> tuple[NativeKernel, ...]:
        """This library at every instruction set of this machine, best first (tests, benchmarks)."""
        found: list[NativeKernel] = []
        while (level := _level(self._library, len(found))) is not None:
            found.append(NativeKernel(self.path, level, len(found), self._library))
        return tuple(found)


@dataclass(frozen=True)
class Missing:
    """No native kernels here, and why (English, for logs and reports)."""

    reason: str


def load_native(
    cache: Path | None = None, *, compiler: Path | None = None, build: bool = True
) -> NativeKernel | Missing:
    """The native kernels of this machine.

    cache     the user's cache folder; a compiled library is kept under `kernel/` in it. None: only a library
              that came with the package is used, nothing is compiled
    compiler  instead of the one on the search path
    build     False: a library that is not there yet is not compiled
    The caller must compare some output with known bytes before it trusts the library.
    """
    bundled = bundled_path()
    if bundled.exists():
        found = _open(bundled)
        if isinstance(found, NativeKernel) or cache is None:
            return found
    if cache is None:
        return Missing("no library came with the package, and no cache folder was given to build one in")
    folder = cache / "kernel"
    stem = f"{source_id()}-{platform_id()}"
    compiler = compiler or find_compiler()
    if compiler is None:
        for path in sorted(folder.glob(f"{stem}-*{library_suffix()}")):
            found = _open_cached(path)
            if isinstance(found, NativeKernel):
                return found
        return Missing("no C compiler was found (cc, gcc, clang)")
    try:
        path = folder / f"{stem}-{_identify(compiler)}{library_suffix()}"
    except OSError as error:
        return Missing(f"{compiler.name}: {error.strerror}")
    failed = path.with_suffix(".failed")
    if not path.exists():
        if not build:
            return Missing("it has not been compiled yet")
        if (note := _recent_note(failed)) is not None:
            return Missing(f"an earlier build failed: {note}")
        try:
            compile_library(path, compiler)
        except BuildError as error:
            with contextlib.suppress(OSError):  # without the note the next run tries again
                failed.write_text(f"{error}\n", "utf-8")
            return Missing(str(error))
        except OSError as error:
            return Missing(f"{folder} cannot be written: {error.strerror}")
    return _open_cached(path)


def bundled_path() -> Path:
    """Where a library that comes with the package lies."""
    return _FOLDER / f"_kernel{library_suffix()}"


def _open(path: Path) -> NativeKernel | Missing:
    try:
        library = ctypes.CDLL(str(path))
        _declare(library)
    except (OSError, AttributeError) as error:
        return Missing(f"{path.name} does not load: {error}")
    if library.rfctl_kernel_source() != source_id().encode():
        return Missing(f"{path.name} was built from another source")
    level = _level(library, 0)
    if level is None:
        return Missing(f"{path.name} has nothing for this processor")
    return NativeKernel(path, level, 0, library)


def _open_cached(path: Path) -> NativeKernel | Missing:
    """Code that others can write is not loaded."""
    if os.name == "posix":
        for place in (path, path.parent):
            try:
                status = place.stat()
            except OSError as error:
                return Missing(f"{path.name}: {error.strerror}")
            if status.st_uid != os.getuid() or status.st_mode & 0o022:
                return Missing(f"{place} belongs to, or can be written by, other users")
    return _open(path)


def _declare(library: Any) -> None:
    number, size, pointer = ctypes.c_int, ctypes.c_int64, ctypes.c_void_p
    library.rfctl_kernel_source.restype = ctypes.c_char_p
    library.rfctl_kernel_level.restype = ctypes.c_char_p
    library.rfctl_kernel_level.argtypes = [number]
    library.rfctl_kernel_quantize.restype = number
    library.rfctl_kernel_quantize.argtypes = [number, number, pointer, pointer, size]
    library.rfctl_kernel_convert.restype = size
    library.rfctl_kernel_convert.argtypes = [number, number, pointer, pointer, size]


def _level(library: Any, rank: int) -> str | None:
    name: bytes | None = library.rfctl_kernel_level(rank)
    return name.decode() if name is not None else None


def _identify(compiler: Path) -> str:
    """Stands for this very compiler: an update changes it, without the cost of running it."""
    real = compiler.resolve()
    status = real.stat()
    return hashlib.sha256(f"{real}\0{status.st_size}\0{status.st_mtime_ns}".encode()).hexdigest()[:12]


def _recent_note(path: Path) -> str | None:
    """The first line of a note of less than a day; what failed on a busy machine may work later."""
    try:
        if time.time() - path.stat().st_mtime > _RETRY_AFTER_S:
            return None
        with path.open(encoding="utf-8", errors="replace") as file:
            return file.readline(500).strip()
    except OSError:
        return None


def _need(array: npt.NDArray[Any], dtype: type, size: int) -> None:
    if array.dtype != dtype or array.size != size or not array.flags.c_contiguous:
        raise ValueError(f"a contiguous {np.dtype(dtype).name} buffer of {size} items is needed")
