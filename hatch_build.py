"""Puts the native kernels into the wheel when a C compiler is there; without one the wheel is pure.

The wheel carries the platform in its name only when it carries the library. An editable install is left
alone: there the library is compiled at first use into the user's cache.
"""

from __future__ import annotations

import importlib.util
import sys
import sysconfig
from pathlib import Path
from types import ModuleType
from typing import Any

from hatchling.builders.hooks.plugin.interface import BuildHookInterface

NATIVE = Path("converter/rfctl/converter/quantization/native")
TARGET = "rfctl/converter/quantization/native"


class KernelBuildHook(BuildHookInterface):  # type: ignore[type-arg]
    """`[tool.hatch.build.targets.wheel.hooks.custom]`."""

    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        if self.target_name != "wheel" or version == "editable":
            return
        build = _load(Path(self.root) / NATIVE / "build.py")
        compiler = build.find_compiler()
        if compiler is None:
            self.app.display_info("no C compiler: the wheel gets no native kernels")
            return
        library = Path(self.directory) / ".kernel" / f"_kernel{build.library_suffix()}"
        try:
            build.compile_library(library, compiler)
        except (build.BuildError, OSError) as error:
            self.app.display_warning(f"the wheel gets no native kernels: {error}")
            return
        build_data["force_include"][str(library)] = f"{TARGET}/{library.name}"
        build_data["pure_python"] = False
        build_data["tag"] = f"py3-none-{sysconfig.get_platform().replace('-', '_').replace('.', '_')}"


def _load(path: Path) -> ModuleType:
    spec = importlib.util.spec_from_file_location("rfctl_kernel_build", path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module
