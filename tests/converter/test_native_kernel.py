"""The native kernels: equal to ggml on ordinary and hostile numbers at every instruction set."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rfctl.converter.encode import encode_rows
from rfctl.converter.quantization import dtype, kernel
from rfctl.converter.quantization.native import build, loader
from rfctl.converter.quantization.native.loader import CONVERSIONS, TYPES, Missing, NativeKernel, load_native
from rfctl.converter.quantization.type import tensor_type

type Rows = npt.NDArray[np.float32]

COMPILER = build.find_compiler()
needs_compiler = pytest.mark.skipif(COMPILER is None, reason="no C compiler here")


@pytest.fixture(scope="session")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("cache")


@pytest.fixture(scope="session")
def native(cache: Path) -> NativeKernel:
    if COMPILER is None:
        pytest.skip("no C compiler here")
    found = load_native(cache)
    assert isinstance(found, NativeKernel), found
    return found


@pytest.fixture(scope="session")
def levels(native: NativeKernel) -> tuple[NativeKernel, ...]:
    return native.at_levels()


@pytest.fixture(scope="session")
def ggml() -> Callable[[str, Rows], npt.NDArray[np.uint8]]:
    found = kernel._library()
    if found is None:
        pytest.skip("the inference package with ggml is not installed")
    function = found[1]

    def run(name: str, rows: Rows) -> npt.NDArray[np.uint8]:
        kind = tensor_type(name)
        out = np.empty((rows.shape[0], kind.row_bytes(rows.shape[1])), np.uint8)
        function(kind.number, rows.ctypes.data, out.ctypes.data, 0, *rows.shape, None)
        return out

    return run


@pytest.fixture(autouse=True)
def choice() -> Iterator[None]:
    """Each test leaves the process with the default choice of kernels."""
    yield
    kernel.use_kernel()


def quantize(one: NativeKernel, name: str, rows: Rows) -> npt.NDArray[np.uint8]:
    kind = tensor_type(name)
    guard = 64  # bytes behind the output that must stay as they are
    memory = np.full(rows.shape[0] * kind.row_bytes(rows.shape[1]) + guard, 0xA5, np.uint8)
    out = memory[:-guard].reshape(rows.shape[0], -1)
    one.quantize(name, rows, out)
    assert (memory[-guard:] == 0xA5).all()
    return out


def samples(seed: int, n: int = 9, columns: int = 768) -> dict[str, Rows]:
    """Ordinary weights and the cases in which searches, roundings and zero scales go wrong."""
    rng = np.random.default_rng(seed)
    size = n * columns
    bell = rng.standard_normal(size) * 0.02
    bits = rng.integers(0, 2**32, size, np.uint64).astype(np.uint32)
    bits[(bits & 0x7F800000) == 0x7F800000] = 0
    per_block = 10.0 ** np.repeat(rng.integers(-44, 37, size // 16), 16)
    values: dict[str, npt.NDArray[np.floating]] = {
        "normal": bell,
        "student 2": rng.standard_t(2, size) * 0.01,
        "positive": rng.random(size),
        "negative": -rng.random(size) - 0.5,
        "zero sub-blocks of 16": np.where(np.repeat(rng.random(size // 16) < 0.4, 16), 0.0, bell),
        "zero sub-blocks of 32": np.where(np.repeat(rng.random(size // 32) < 0.4, 32), 0.0, bell),
        "constant sub-blocks": np.repeat(rng.standard_normal(size // 16), 16),
        "constant blocks": np.repeat(rng.standard_normal(size // 256), 256),
        "denormal": rng.standard_normal(size) * 1e-40,
        "smallest denormal": rng.integers(-3, 4, size) * 1.4e-45,
        "near the zero limit": rng.standard_normal(size) * 1e-15,
        "scale below half precision": rng.standard_normal(size) * 1e-7,
        "scales apart": rng.standard_normal(size) * per_block,
        "magnitudes apart": rng.standard_normal(size) * 10.0 ** rng.integers(-12, 3, size),
        "huge": np.clip(rng.standard_normal(size) * 3e38, -3.4e38, 3.4e38),
        "squares overflow": rng.standard_normal(size) * 1e19,
        "few": np.where(rng.random(size) < 0.01, rng.standard_normal(size), 0.0),
        "negative zeros": np.where(rng.random(size) < 0.6, -0.0, np.where(rng.random(size) < 0.1, 1.0, 0.0)),
        "grid": rng.integers(-8, 8, size) * 0.125,
        "any bits": bits.view(np.float32),
    }
    with np.errstate(over="ignore", under="ignore"):
        return {name: np.ascontiguousarray(v.reshape(n, columns), np.float32) for name, v in values.items()}


@pytest.mark.parametrize("name", TYPES)
def test_recorded_blocks(golden: Path, levels: tuple[NativeKernel, ...], name: str) -> None:
    blocks = json.loads((golden / "converter" / "quantize" / "blocks.json").read_text("utf-8"))
    shape = (blocks["rows"], blocks["columns"])
    index = np.arange(shape[0] * shape[1], dtype=np.uint64)

    def uniform(t: int) -> npt.NDArray[np.float64]:
        x = (index * np.uint64(2654435761) + np.uint64(t * 40503 + 12345)).astype(np.uint32)
        for shift, factor in ((15, 2246822519), (13, 3266489917), (16, 1)):
            x = (x ^ (x >> np.uint32(shift))) * np.uint32(factor)
        return (x >> np.uint32(8)).astype(np.float64) / 2.0**24

    bell, w = (uniform(0) + uniform(1) + uniform(2) + uniform(3) - 2.0) * 0.05, uniform(4) - 0.5
    row, column = np.divmod(np.arange(index.size), shape[1])
    inputs = {
        "normal_like": bell,
        "heavy_tails": (w / (0.2501 - w * w)) * 0.004,
        "all_zero": np.zeros(index.size),
        "constant_rows": (row - 32) * 0.01,
        "zero_sub_blocks": np.where((row + column // 32) % 3 == 0, 0.0, bell),
    }
    for title, wanted in blocks["outputs"][name]["results"].items():
        rows = inputs[title].astype(np.float32).reshape(shape)
        assert hashlib.sha256(rows.tobytes()).hexdigest() == blocks["inputs"][title]["sha256_f32_le"]
        for one in levels:
            digest = hashlib.sha256(quantize(one, name, rows).tobytes()).hexdigest()
            assert digest == wanted["sha256"], (title, one.level)


@pytest.mark.parametrize("seed", range(6))
def test_bytes_equal_the_installed_ggml(
    levels: tuple[NativeKernel, ...], ggml: Callable[[str, Rows], npt.NDArray[np.uint8]], seed: int
) -> None:
    for title, rows in samples(seed).items():
        for name in TYPES:
            wanted = ggml(name, rows)
            for one in levels:
                assert np.array_equal(quantize(one, name, rows), wanted), (title, name, one.level)


@settings(max_examples=200, deadline=None)
@given(data=st.data())
def test_any_finite_block_equals_ggml(
    levels: tuple[NativeKernel, ...], ggml: Callable[[str, Rows], npt.NDArray[np.uint8]], data: st.DataObject
) -> None:
    """Few distinct values at random places: ties, plateaus and empty sub-blocks."""
    floats = st.floats(width=32, allow_nan=False, allow_infinity=False)
    pool = np.array(data.draw(st.lists(floats, min_size=1, max_size=6)), np.float32)
    rng = np.random.default_rng(data.draw(st.integers(0, 2**32)))
    rows = np.ascontiguousarray(pool[rng.integers(0, pool.size, (1, 256 * data.draw(st.integers(1, 3))))])
    for name in TYPES:
        wanted = ggml(name, rows)
        for one in levels:
            assert np.array_equal(quantize(one, name, rows), wanted), (name, one.level)


def test_values_that_are_not_finite_stay_inside_the_buffers(levels: tuple[NativeKernel, ...]) -> None:
    rng = np.random.default_rng(1)
    rows = rng.standard_normal((3, 256)).astype(np.float32)
    rows[rng.random(rows.shape) < 0.2] = np.nan
    rows[rng.random(rows.shape) < 0.2] = -np.inf
    for one in levels:
        for name in TYPES:
            quantize(one, name, rows)


def test_conversions_equal_the_exact_ones(levels: tuple[NativeKernel, ...]) -> None:
    every = np.arange(1 << 16, dtype=np.uint16)
    rng = np.random.default_rng(2)
    floats = rng.integers(0, 2**32, 40_001, np.uint64).astype(np.uint32).view(np.float32)
    exact = {
        ("BF16", "F32"): dtype.bf16_to_f32,
        ("F16", "F32"): dtype.f16_to_f32,
        ("F32", "BF16"): dtype.f32_to_bf16,
        ("F32", "F16"): dtype.f32_to_f16,
    }
    read = {"BF16": dtype.bf16_to_f32, "F16": dtype.f16_to_f32, "F32": lambda values: values}
    assert set(exact) == set(CONVERSIONS)
    for (source, target), function in exact.items():
        values = floats if source == "F32" else every
        wanted = function(values)  # type: ignore[operator]
        first = int(np.argmin(np.isfinite(read[source](values))))
        nan = np.isnan(read[source](values))
        for one in levels:
            out = np.empty_like(wanted)
            assert one.convert(source, target, values, out) == first
            assert np.array_equal(out[~nan].view(np.uint8), wanted[~nan].view(np.uint8))
            assert np.array_equal(np.isnan(read[target](out)), nan)


@pytest.mark.parametrize("at", [0, 1, 1023, 1024, 4999, None])
def test_the_first_value_that_is_not_finite_is_named(native: NativeKernel, at: int | None) -> None:
    values = np.ones(5000, np.float32)
    if at is not None:
        values[at:] = np.inf
    assert native.convert("F32", "BF16", values, np.empty(5000, np.uint16)) == at


def test_buffers_that_do_not_fit_are_refused(native: NativeKernel) -> None:
    rows = np.zeros((2, 256), np.float32)
    with pytest.raises(ValueError, match="288 items"):
        native.quantize("Q4_K", rows, np.empty((2, 143), np.uint8))
    with pytest.raises(ValueError, match="float32"):
        native.quantize("Q4_K", rows.astype(np.float64), np.empty((2, 144), np.uint8))  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="float32"):
        native.quantize("Q4_K", np.zeros((2, 512), np.float32)[:, ::2], np.empty((2, 144), np.uint8))
    with pytest.raises(ValueError, match="IQ4_XS"):
        native.quantize("IQ4_XS", rows, np.empty((2, 136), np.uint8))
    with pytest.raises(ValueError, match="conversion"):
        native.convert("F32", "F64", rows, np.empty((2, 256)))
    with pytest.raises(ValueError, match="uint16"):
        native.convert("F32", "F16", rows, np.empty(511, np.uint16))


def test_the_kernel_takes_the_native_source_first(cache: Path, native: NativeKernel) -> None:
    kernel.use_kernel(cache=cache)
    info = kernel.kernel_info()
    assert {info[name] for name in (*TYPES, "F16", "BF16")} == {f"native ({native.level})"}
    assert kernel.native_state() == native.level
    rows = samples(0)["student 2"]
    made = {name: kernel.quantize(name, rows) for name in TYPES}
    kernel.use_kernel(["ggml"])
    assert "ggml" in kernel.kernel_info()["Q4_K"]
    assert all(np.array_equal(kernel.quantize(name, rows), made[name]) for name in TYPES)
    kernel.use_kernel(["numpy"])
    assert kernel.kernel_info()["Q4_K"] == "none" and kernel.kernel_info()["Q8_0"] == "numpy"
    with pytest.raises(ValueError, match="guess"):
        kernel.use_kernel(["guess"])


@pytest.mark.parametrize("source", ["BF16", "F16", "F32"])
@pytest.mark.parametrize("target", ["F16", "BF16"])
def test_floats_are_encoded_alike_with_and_without_it(
    source: str, target: str, cache: Path, native: NativeKernel
) -> None:
    """All finite values of 16 bits, and those float32 that lie around every one of them."""
    bits = np.arange(1 << 16, dtype=np.uint32)
    if source == "F32":
        near = ((bits << 16)[:, None] + np.array([0, 1, 0x7FFF, 0x8000, 0x8001], np.uint32)).reshape(-1)
        rows = near.view(np.float32)
        rows = rows[np.isfinite(rows)].reshape(1, -1)
    else:
        exponent = 0x7F80 if source == "BF16" else 0x7C00
        rows = bits[bits & exponent != exponent].astype(np.uint16).reshape(1, -1)
        rows = rows if source == "BF16" else rows.view(np.float16)
    kernel.use_kernel(cache=cache)
    with_it = encode_rows(target, source, rows)
    kernel.use_kernel(["numpy"])
    without = encode_rows(target, source, rows)
    assert with_it[1] == without[1]
    np.testing.assert_array_equal(with_it[0].view(np.uint16), without[0].view(np.uint16))


def test_what_was_compiled_is_used_where_nothing_may_be_compiled(
    cache: Path, native: NativeKernel, tmp_path: Path
) -> None:
    assert isinstance(load_native(cache, build=False), NativeKernel)
    if not loader.bundled_path().exists():
        assert isinstance(load_native(tmp_path, build=False), Missing)
        assert list(tmp_path.iterdir()) == []


def test_a_native_library_with_wrong_bytes_is_passed_over(
    cache: Path, native: NativeKernel, monkeypatch: pytest.MonkeyPatch
) -> None:
    def off_by_one(self: NativeKernel, name: str, rows: Rows, out: npt.NDArray[np.uint8]) -> None:
        truth(self, name, rows, out)
        out[-1, -1] ^= 1

    truth = NativeKernel.quantize
    monkeypatch.setattr(NativeKernel, "quantize", off_by_one)
    kernel.use_kernel(cache=cache)
    assert "ggml" in kernel.kernel_info()["Q6_K"]


def test_without_a_cache_nothing_is_compiled() -> None:
    if loader.bundled_path().exists():
        pytest.skip("this installation brought its library")
    found = load_native()
    assert isinstance(found, Missing) and "no cache folder" in found.reason
    assert kernel.native_state().startswith("none: no library")


def script(path: Path, text: str) -> Path:
    path.write_text(f"#!/bin/sh\n{text}\n")
    path.chmod(0o755)
    return path


@pytest.mark.skipif(os.name != "posix", reason="compilers as shell scripts")
class TestBuilding:
    def test_a_failing_compiler_is_asked_once(self, tmp_path: Path) -> None:
        count = tmp_path / "count"
        compiler = script(tmp_path / "cc", f"echo x >> {count}; echo 'no such header' >&2; exit 3")
        for _ in range(2):
            found = load_native(tmp_path / "cache", compiler=compiler)
            assert isinstance(found, Missing) and "no such header" in found.reason
        assert count.read_text().count("x") == 2  # with and without GCC's own flags
        (note,) = (tmp_path / "cache" / "kernel").iterdir()
        assert note.suffix == ".failed"
        os.utime(note, (0, 0))
        load_native(tmp_path / "cache", compiler=compiler)
        assert count.read_text().count("x") == 4  # a day later it is tried again

    def test_a_hanging_compiler_is_ended(self, tmp_path: Path) -> None:
        compiler = script(tmp_path / "cc", "exec sleep 60")
        with pytest.raises(build.BuildError, match="longer than"):
            build.compile_library(tmp_path / "lib.so", compiler, timeout=0.2)
        assert [p.name for p in tmp_path.iterdir()] == ["cc"]

    def test_a_compiler_that_writes_rubbish(self, tmp_path: Path) -> None:
        text = 'while [ "$1" != -o ]; do shift; done; echo rubbish > "$2"'
        found = load_native(tmp_path / "cache", compiler=script(tmp_path / "cc", text))
        assert isinstance(found, Missing) and "does not load" in found.reason

    def test_a_compiler_that_is_gone(self, tmp_path: Path) -> None:
        assert isinstance(load_native(tmp_path, compiler=tmp_path / "cc"), Missing)

    def test_a_cache_that_cannot_be_written(self, tmp_path: Path) -> None:
        (tmp_path / "cache").write_text("a file")
        found = load_native(tmp_path / "cache", compiler=script(tmp_path / "cc", "exit 1"))
        assert isinstance(found, Missing) and "cannot be written" in found.reason

    def test_code_that_others_can_write_is_not_loaded(self, tmp_path: Path, native: NativeKernel) -> None:
        folder = tmp_path / "kernel"
        folder.mkdir(mode=0o700)
        copy = folder / native.path.name
        shutil.copy2(native.path, copy)
        assert isinstance(load_native(tmp_path), NativeKernel)
        copy.chmod(0o722)
        found = load_native(tmp_path)
        assert isinstance(found, Missing) and "other users" in found.reason

    def test_a_library_of_another_source(
        self, tmp_path: Path, native: NativeKernel, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        bundled = tmp_path / native.path.name
        shutil.copy2(native.path, bundled)
        monkeypatch.setattr(loader, "bundled_path", lambda: bundled)
        assert isinstance(load_native(), NativeKernel)
        monkeypatch.setattr(loader, "source_id", lambda: "0" * 16)
        found = load_native()
        assert isinstance(found, Missing) and "another source" in found.reason

    def test_without_a_compiler_the_cached_library_serves(
        self, cache: Path, native: NativeKernel, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
    ) -> None:
        monkeypatch.setattr(loader, "find_compiler", lambda: None)
        found = load_native(cache)
        assert isinstance(found, NativeKernel) and found.path == native.path
        missing = load_native(tmp_path)
        assert isinstance(missing, Missing) and "no C compiler" in missing.reason

    def test_two_builds_at_once_leave_one_whole_library(self, tmp_path: Path, native: NativeKernel) -> None:
        """The slow part is replaced by a copy; what is tested is the writing."""
        text = f'while [ "$1" != -o ]; do shift; done; cp {native.path} "$2"; sleep 0.1'
        compiler = script(tmp_path / "cc", text)
        found: list[NativeKernel | Missing] = []
        threads = [
            threading.Thread(target=lambda: found.append(load_native(tmp_path / "c", compiler=compiler)))
            for _ in range(4)
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(30)
        assert len(found) == 4 and all(isinstance(one, NativeKernel) for one in found)
        assert len(list((tmp_path / "c" / "kernel").iterdir())) == 1


@needs_compiler
def test_a_killed_build_leaves_no_library(tmp_path: Path) -> None:
    if os.name != "posix":
        pytest.skip("compilers as shell scripts")
    text = 'while [ "$1" != -o ]; do shift; done; echo half > "$2"; sleep 5'
    compiler = script(tmp_path / "cc", text)
    code = (
        "from pathlib import Path; from rfctl.converter.quantization.native.loader import load_native;"
        f"load_native(Path({str(tmp_path)!r}), compiler=Path({str(compiler)!r}))"
    )
    with subprocess.Popen([sys.executable, "-c", code]) as process:
        folder = tmp_path / "kernel"
        for _ in range(400):
            if folder.exists() and list(folder.glob(".*.partial")):
                break
            threading.Event().wait(0.05)
        else:
            pytest.fail("the build did not start")
        process.kill()
    assert not list(folder.glob("*.so")) and list(folder.glob(".*.partial"))
    for left in folder.glob(".*.partial"):
        os.utime(left, (0, 0))
    target = folder / next(folder.glob(".*.partial")).name[1:].rsplit(".", 2)[0]
    with pytest.raises(build.BuildError):
        build.compile_library(target, script(compiler, "exit 1"))
    assert not list(folder.glob(".*.partial"))
