"""Rows of float32 to rows of a GGML type, byte-equal to ggml.

Three sources, fastest first: our own native kernels (`native/`), `ggml_quantize_chunk` in the shared library
of the installed inference package, called without importing that package, and gguf's numpy code for the types
it has. Each source proves itself per type on stored blocks before it is used; what fails is passed over.
ctypes releases the GIL during a call, so threads scale.
"""

from __future__ import annotations

import ctypes
import hashlib
import importlib.util
import json
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache, partial
from pathlib import Path
from types import MappingProxyType

import numpy as np
import numpy.typing as npt

from rfctl.converter.quantization.dtype import f32_to_bf16, f32_to_f16
from rfctl.converter.quantization.native.loader import TYPES as NATIVE_TYPES
from rfctl.converter.quantization.native.loader import Missing, NativeKernel, load_native
from rfctl.converter.quantization.type import tensor_type, tensor_types
from rfctl.core.error import RfctlError

type Rows = npt.NDArray[np.float32]
type Bytes = npt.NDArray[np.uint8]
type Quantizer = Callable[[Rows, Bytes], None]

_PROOF = Path(__file__).with_name("proof.json")
_NUMPY_TYPES = ("Q4_0", "Q4_1", "Q5_0", "Q5_1", "Q8_0")
_LOCK = threading.Lock()
_READY: dict[str, tuple[str, Quantizer]] = {}
SOURCES = ("native", "ggml", "numpy")


@dataclass
class _Choice:
    """What `use_kernel` said, and the native kernels once somebody asked for them."""

    sources: Sequence[str] = SOURCES
    cache: Path | None = None
    build: bool = True
    native: NativeKernel | Missing | None = None


_CHOICE = _Choice()


def use_kernel(sources: Sequence[str] = SOURCES, cache: Path | None = None, *, build: bool = True) -> None:
    """Choose for this process which sources are tried, in this order.

    sources  some of SOURCES; one alone forces it (types that it cannot make raise `model.kernel-missing`)
    cache    the user's cache folder, where the native kernels are compiled at their first use when a compiler
             is there; None: they are used only when the package brought them
    build    False: compile nothing, but use what was compiled there before
    Raises ValueError for an unknown source.
    """
    if unknown := set(sources) - set(SOURCES):
        raise ValueError(f"no such kernel source: {', '.join(sorted(unknown))}")
    with _LOCK:
        _CHOICE.sources, _CHOICE.cache, _CHOICE.build, _CHOICE.native = tuple(sources), cache, build, None
        _READY.clear()


def native_state() -> str:
    """The instruction set of the native kernels, or "none: " and why there are none; may compile them."""
    with _LOCK:
        native = _native()
    return native.level if isinstance(native, NativeKernel) else f"none: {native.reason}"


def quantize(type_name: str, rows: Rows, out: Bytes | None = None) -> Bytes:
    """`rows` in the tensor type `type_name`.

    rows  float32, (n, columns), finite; columns a multiple of the type's block
    out   uint8, (n, row bytes), C-contiguous; allocated when not given
    Returns `out`. Thread safe. Without importance matrix, as llama-quantize works by default.
    Raises ValueError for a shape or buffer that does not fit, RfctlError `model.kernel-missing` when no
    source on this machine can make the type.
    """
    kind = tensor_type(type_name)
    if rows.ndim != 2 or rows.dtype != np.float32:
        raise ValueError("rows must be float32 of two dimensions")
    shape = (rows.shape[0], kind.row_bytes(rows.shape[1]))
    if out is None:
        out = np.empty(shape, np.uint8)
    elif out.shape != shape or out.dtype != np.uint8 or not out.flags.c_contiguous:
        raise ValueError(f"out must be contiguous uint8 of shape {shape}")
    if out.size:
        _ready(kind.name)[1](np.ascontiguousarray(rows), out)
    return out


def kernel_info(types: Sequence[str] = ()) -> Mapping[str, str]:
    """Which source makes each type here: "native (LEVEL)", "ggml (FILE NAME)", "numpy" or "none".

    types  names to ask for; all when empty
    """
    info = {}
    for name in types or proved_types():
        try:
            info[name] = _ready(name)[0]
        except RfctlError:
            info[name] = "none"
    return MappingProxyType(info)


def can_quantize(type_name: str) -> bool:
    """Whether some source on this machine makes this type."""
    try:
        _ready(tensor_type(type_name).name)
    except RfctlError:
        return False
    return True


def is_native(type_name: str) -> bool:
    """Whether our own kernels make this type here."""
    return _ready(tensor_type(type_name).name)[0].startswith("native")


def proved_types() -> tuple[str, ...]:
    """The types with stored proofs, which are those `quantize` can make."""
    return tuple(name for name in tensor_types() if name in _proofs()["sha256"] or name == "F32")


def _ready(name: str) -> tuple[str, Quantizer]:
    found = _READY.get(name)
    if found is not None:
        return found
    with _LOCK:
        found = _READY.get(name)
        if found is None:
            found = _READY[name] = _select(name)
    return found


def _select(name: str) -> tuple[str, Quantizer]:
    for source, quantizer in _candidates(name):
        if name == "F32" or _is_proved(name, quantizer):
            return source, quantizer
    raise RfctlError("model.kernel-missing", type=name)


def _candidates(name: str) -> Iterator[tuple[str, Quantizer]]:
    plain: dict[str, Quantizer] = {"F32": _copy_f32, "F16": _to_f16, "BF16": _to_bf16}
    if name in plain:
        if "native" in _CHOICE.sources and name != "F32" and isinstance(native := _native(), NativeKernel):
            yield f"native ({native.level})", _through_conversion(native, name)
        yield "numpy", plain[name]
        return
    for source in _CHOICE.sources:  # one by one: a library that is not needed is not loaded
        found = _candidate(source, name)
        if found is not None:
            yield found


def _candidate(source: str, name: str) -> tuple[str, Quantizer] | None:
    if source == "native" and name in NATIVE_TYPES:
        native = _native()
        if isinstance(native, NativeKernel):
            return f"native ({native.level})", partial(native.quantize, name)
    if source == "ggml" and (library := _library()) is not None:
        return f"ggml ({library[0]})", _through_ggml(library[1], tensor_type(name).number)
    if source == "numpy" and name in _NUMPY_TYPES:
        return "numpy", _through_gguf(name)
    return None


def _native() -> NativeKernel | Missing:
    if _CHOICE.native is None:
        _CHOICE.native = load_native(_CHOICE.cache, build=_CHOICE.build)
    return _CHOICE.native


def _copy_f32(rows: Rows, out: Bytes) -> None:
    out.view("<f4")[...] = rows


def _to_f16(rows: Rows, out: Bytes) -> None:
    f32_to_f16(rows, out.view(np.uint16))


def _to_bf16(rows: Rows, out: Bytes) -> None:
    f32_to_bf16(rows, out.view(np.uint16))


def _through_conversion(native: NativeKernel, name: str) -> Quantizer:
    def run(rows: Rows, out: Bytes) -> None:
        native.convert("F32", name, rows, out.view(np.uint16))

    return run


def _through_ggml(function: Callable[..., int], number: int) -> Quantizer:
    def run(rows: Rows, out: Bytes) -> None:
        n, columns = rows.shape
        written = function(number, rows.ctypes.data, out.ctypes.data, 0, n, columns, None)
        if written != out.nbytes:
            raise ValueError(f"ggml wrote {written} bytes, not {out.nbytes}")

    return run


def _through_gguf(name: str) -> Quantizer:
    def run(rows: Rows, out: Bytes) -> None:
        from gguf import GGMLQuantizationType, quants

        out[...] = quants.quantize(rows, GGMLQuantizationType[name]).reshape(out.shape)

    return run


@cache
def _library() -> tuple[str, Callable[..., int]] | None:
    """`ggml_quantize_chunk` and the name of its file, or None where the library is missing or does not load.

    Loading starts no threads: the OpenMP pool of the library appears only with its inference calls.
    """
    for path in _library_paths():
        try:
            function = ctypes.CDLL(str(path)).ggml_quantize_chunk
        except (OSError, AttributeError):
            continue  # another C library than ours: numpy, or the error of `_select`, takes over
        size, pointer = ctypes.c_int64, ctypes.c_void_p
        function.argtypes = [ctypes.c_int, pointer, pointer, size, size, size, pointer]
        function.restype = ctypes.c_size_t
        return path.name, function
    return None


def _library_paths() -> list[Path]:
    try:
        spec = importlib.util.find_spec("xllamacpp")
    except (ImportError, ValueError):
        return []
    folders = list(spec.submodule_search_locations or []) if spec else []
    return sorted(
        path
        for folder in folders
        for path in Path(folder).iterdir()
        if path.suffix in {".so", ".pyd", ".dylib"}
    )


def _is_proved(name: str, quantizer: Quantizer) -> bool:
    wanted: Mapping[str, str] = _proofs()["sha256"][name]
    kind = tensor_type(name)
    for title, rows in _inputs().items():
        out = np.empty((rows.shape[0], kind.row_bytes(rows.shape[1])), np.uint8)
        try:
            with np.errstate(all="ignore"):
                quantizer(rows, out)
        except (ValueError, OSError, ImportError):
            return False
        if hashlib.sha256(out.tobytes()).hexdigest() != wanted[title]:
            return False
    return True


@cache
def _proofs() -> dict[str, dict[str, dict[str, str]]]:
    found: dict[str, dict[str, dict[str, str]]] = json.loads(_PROOF.read_text("utf-8"))
    return found


@cache
def _inputs() -> Mapping[str, Rows]:
    """The inputs of the proofs, (8, 512) float32 each."""
    n, columns = 8, 512
    index = np.arange(n * columns, dtype=np.uint64)

    def uniform(t: int) -> npt.NDArray[np.float64]:
        x = ((index * np.uint64(2654435761) + np.uint64(t * 40503 + 12345)) & np.uint64(0xFFFFFFFF)).astype(
            np.uint32
        )
        x ^= x >> np.uint32(15)
        x *= np.uint32(2246822519)
        x ^= x >> np.uint32(13)
        x *= np.uint32(3266489917)
        x ^= x >> np.uint32(16)
        return (x >> np.uint32(8)).astype(np.float64) / 2.0**24

    bell = (uniform(0) + uniform(1) + uniform(2) + uniform(3) - 2.0) * 0.05
    w = uniform(4) - 0.5
    row = np.arange(n)[:, None]
    zeroed = np.where((row + np.arange(columns)[None, :] // 32) % 3 == 0, 0.0, bell.reshape(n, columns))
    inputs = {
        "normal_like": bell,
        "heavy_tails": (w / (0.2501 - w * w)) * 0.004,
        "all_zero": np.zeros(n * columns),
        "constant_rows": np.broadcast_to((row - 32) * 0.01, (n, columns)),
        "zero_sub_blocks": zeroed,
    }
    return {
        title: np.ascontiguousarray(values.reshape(n, columns), np.float32)
        for title, values in inputs.items()
    }
