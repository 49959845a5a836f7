"""Which code quantizes: our own C (built once into the cache), ggml of an installed wheel, or numpy.

All give the same bytes. Our own is several times faster for K-quants, but building it costs seconds, which a
small model does not give back; so by itself it is built for large ones only.
"""

from __future__ import annotations

from pathlib import Path

from rfctl.cli.app import App

CHOICES = ("auto", "native", "ggml", "numpy")
# Below this ggml needs less time than the compiler: 135 M weights take 2 s, building takes 5 s.
WORTH_BUILDING_BYTES = 600_000_000


def choose_kernel(app: App, source: Path, outtype: str, choice: str = "auto") -> None:
    """Set the kernels of this process for a conversion of the directory `source`.

    Raises RfctlError `model.kernel-missing` later, when a forced source cannot make a type.
    """
    from rfctl.converter.quantization import kernel

    build = choice == "native" or (choice == "auto" and _is_worth_building(source, outtype))
    sources = kernel.SOURCES if choice == "auto" else (choice,)
    kernel.use_kernel(sources, cache=app.directories.cache, build=build)


def _is_worth_building(source: Path, outtype: str) -> bool:
    if "_K" not in outtype.upper() or not source.is_dir():
        return False
    return sum(path.stat().st_size for path in source.glob("*.safetensors")) >= WORTH_BUILDING_BYTES
