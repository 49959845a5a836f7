"""Stand-ins for the modules torch and transformers, as far as conversion code of llama.cpp uses them."""

from __future__ import annotations

import contextlib
import math
import sys
import types
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from rfctl.converter.expression import STORAGE
from rfctl.converter.hparams import fill_defaults
from rfctl.converter.llama_cpp import tensor as recorded
from rfctl.converter.llama_cpp.dtype import DTYPES, DType, Size
from rfctl.converter.llama_cpp.graph import promote
from rfctl.converter.llama_cpp.tensor import Tensor, cat, from_numpy, stack, wrap
from rfctl.converter.protobuf import list_fields
from rfctl.converter.source import open_source
from rfctl.converter.special import token_text
from rfctl.converter.tokenizer import TokenizerFile, load_tokenizer

_SPECIAL = ("bos_token", "eos_token", "unk_token", "sep_token", "pad_token", "cls_token", "mask_token")
_SHORT = {"float": "F32", "double": "F64", "half": "F16", "long": "I64", "int": "I32", "short": "I16"}


def install() -> None:
    """Put the stand-ins where `import torch` and `import transformers` find them."""
    torch = _make_torch()
    for name, module in torch.items():
        sys.modules[name] = module
    transformers = types.ModuleType("transformers")
    transformers.AutoConfig = AutoConfig  # type: ignore[attr-defined]
    transformers.AutoTokenizer = AutoTokenizer  # type: ignore[attr-defined]
    transformers.PreTrainedTokenizer = Tokenizer  # type: ignore[attr-defined]
    transformers.PreTrainedTokenizerFast = Tokenizer  # type: ignore[attr-defined]
    slow = types.ModuleType("transformers.convert_slow_tokenizer")
    slow.bytes_to_unicode = bytes_to_unicode  # type: ignore[attr-defined]
    sys.modules["transformers"] = transformers
    sys.modules["transformers.convert_slow_tokenizer"] = slow
    with contextlib.suppress(ImportError):  # its own module of this name wants protobuf
        import sentencepiece

        proto = types.ModuleType("sentencepiece.sentencepiece_model_pb2")
        proto.ModelProto = ModelProto  # type: ignore[attr-defined]
        vars(sentencepiece)["sentencepiece_model_pb2"] = proto
        sys.modules[proto.__name__] = proto


def _make_torch() -> dict[str, types.ModuleType]:
    torch = types.ModuleType("torch")
    names: dict[str, Any] = {kind.name: kind for kind in DTYPES.values()}
    names |= {name: DTYPES[code] for name, code in _SHORT.items()}
    names |= {
        "Tensor": Tensor, "Size": Size, "dtype": DType, "tensor": _tensor, "as_tensor": _tensor,
        "from_numpy": from_numpy, "cat": cat, "concat": cat, "concatenate": cat, "stack": stack,
        "zeros": _filled(0.0), "ones": _filled(1.0), "empty": _filled(0.0), "full": _full,
        "zeros_like": _like(0), "ones_like": _like(1), "empty_like": _like(0), "arange": _arange,
        "linspace": _linspace, "where": _where, "equal": _equal, "outer": _outer,
        "inference_mode": lambda *_: contextlib.nullcontext(), "no_grad": lambda *_: contextlib.nullcontext(),
        "device": lambda name, *_: name, "is_tensor": lambda value: isinstance(value, Tensor), "pi": math.pi,
        "finfo": _finfo, "concat_": cat, "hstack": lambda tensors: cat(tensors, -1),
        "vstack": lambda tensors: cat(tensors, 0), "inf": math.inf, "nan": math.nan,
    }  # fmt: skip
    for name in (
        "reshape", "permute", "transpose", "swapaxes", "squeeze", "unsqueeze", "flatten", "split", "chunk",
        "exp", "exp2", "sqrt", "rsqrt", "neg", "abs", "sin", "cos", "log", "log2", "floor", "ceil", "round",
        "reciprocal", "tanh", "sigmoid", "add", "sub", "mul", "div", "pow", "matmul", "bitwise_and",
        "bitwise_or", "bitwise_right_shift", "bitwise_left_shift", "eq", "ne", "lt", "gt", "maximum",
        "minimum", "sum", "mean", "amax", "amin", "any", "all", "max", "min", "clamp", "flip", "isnan",
        "isfinite", "repeat_interleave", "unbind", "index_select", "select", "narrow", "numel", "t",
        "clone", "broadcast_to",
    ):  # fmt: skip
        names[name] = _method(name)
    for name, value in names.items():
        setattr(torch, name, value)
    nn, functional = types.ModuleType("torch.nn"), types.ModuleType("torch.nn.functional")
    functional.softplus = lambda values: values.softplus()  # type: ignore[attr-defined]
    functional.pad = _pad  # type: ignore[attr-defined]
    functional.linear = lambda x, weight: x.matmul(weight.t())  # type: ignore[attr-defined]
    nn.functional = functional  # type: ignore[attr-defined]
    nn.Parameter = lambda data, **_: data  # type: ignore[attr-defined]
    torch.nn = nn  # type: ignore[attr-defined]
    return {"torch": torch, "torch.nn": nn, "torch.nn.functional": functional}


def _method(name: str) -> Any:
    return lambda first, *arguments, **options: getattr(first, name)(*arguments, **options)


def _tensor(value: Any, dtype: Any = None, **_: Any) -> Tensor:
    return wrap(value, dtype)


def _sizes(shape: tuple[Any, ...], size: Any) -> tuple[int, ...]:
    given = (
        size if size is not None else shape[0] if len(shape) == 1 and not isinstance(shape[0], int) else shape
    )
    return tuple(int(n) for n in given)


def _filled(value: float) -> Any:
    def make(*shape: Any, size: Any = None, dtype: Any = None, **_: Any) -> Tensor:
        # One value seen everywhere: placeholders on the "meta" device may be as large as the model.
        small = wrap(np.float32(value), dtype or DTYPES["F32"])
        return small.expand(_sizes(shape, size))

    return make


def _full(size: Any, value: Any, dtype: Any = None, **_: Any) -> Tensor:
    return wrap(value, dtype).expand(tuple(size))


def _like(value: int) -> Any:
    return lambda other, dtype=None, **_: wrap(value, dtype or other.dtype).expand(other.shape)


def _arange(*limits: Any, dtype: Any = None, **_: Any) -> Tensor:
    plain = [limit.item() if isinstance(limit, Tensor) else limit for limit in limits]
    values = np.arange(*plain)
    if dtype is None and values.dtype == np.float64:
        values = values.astype(np.float32)
    return wrap(values, dtype)


def _linspace(start: float, end: float, steps: int, dtype: Any = None, **_: Any) -> Tensor:
    return wrap(np.linspace(start, end, steps).astype(np.float32), dtype)


def _where(condition: Tensor, first: Any, second: Any) -> Tensor:
    one, other = wrap(first), wrap(second)
    kind = promote(one.node, other.node)
    one, other = one.to(DTYPES[kind]), other.to(DTYPES[kind])
    shape = np.broadcast_shapes(condition.shape, one.shape, other.shape)
    return recorded.make("where", [condition.node, one.node, other.node], (), kind, shape)


def _equal(first: Tensor, second: Tensor) -> bool:
    return first.shape == second.shape and bool(np.array_equal(np.asarray(first), np.asarray(second)))


def _outer(first: Tensor, second: Tensor) -> Tensor:
    product: Tensor = first.unsqueeze(1)._binary("mul", second.unsqueeze(0))
    return product


def _pad(values: Tensor, pad: Any, mode: str = "constant", value: float = 0) -> Tensor:
    if mode != "constant":
        raise NotImplementedError(f"padding {mode}")
    for number in range(len(pad) // 2):
        axis = values.ndim - 1 - number
        for place, count in enumerate(pad[2 * number : 2 * number + 2]):
            if count:
                shape = list(values.shape)
                shape[axis] = count
                filler = wrap(value, values.dtype).expand(shape)
                values = cat([filler, values] if place == 0 else [values, filler], axis)
    return values


def _finfo(dtype: Any) -> Any:
    if dtype.code == "BF16":
        return types.SimpleNamespace(max=3.3895313892515355e38, min=-3.3895313892515355e38, eps=0.0078125)
    return np.finfo(STORAGE[dtype.code])


class AutoConfig:
    """transformers.AutoConfig: config.json over the defaults of transformers 4.57.6."""

    def __init__(self, values: Mapping[str, Any]) -> None:
        self._values = dict(values)

    @classmethod
    def from_pretrained(cls, path: Any, **_: Any) -> AutoConfig:
        values = fill_defaults(open_source(Path(path)).config)
        if isinstance(values.get("id2label"), dict):
            values["id2label"] = {int(number): label for number, label in values["id2label"].items()}
        return cls(values)

    def to_dict(self) -> dict[str, Any]:
        return dict(self._values)

    def __getattr__(self, name: str) -> Any:
        try:
            return self._values[name]
        except KeyError as error:
            raise AttributeError(name) from error


class AutoTokenizer:
    """transformers.AutoTokenizer."""

    @classmethod
    def from_pretrained(cls, path: Any, *_: Any, **__: Any) -> Tokenizer:
        return Tokenizer(Path(path))


class Tokenizer:
    """A fast tokenizer of transformers, on tokenizer.json."""

    is_fast = True

    def __init__(self, path: Path) -> None:
        source = open_source(path)
        self._file: TokenizerFile = load_tokenizer(source, encodes=True)
        self._engine = self._file.engine
        self.vocab: dict[str, int] = self._engine.get_vocab(with_added_tokens=True)
        self.name_or_path = str(path)
        self.chat_template = self._file.config.get("chat_template")
        self.clean_up_tokenization_spaces = self._file.config.get("clean_up_tokenization_spaces", False)
        self.init_kwargs = dict(self._file.config)

    def __len__(self) -> int:
        return int(self._engine.get_vocab_size(with_added_tokens=True))

    def __getattr__(self, name: str) -> Any:
        if name.removesuffix("_id") in _SPECIAL:
            content = token_text(self._file.config.get(name.removesuffix("_id")))
            if not name.endswith("_id"):
                return content
            return None if content is None else self._engine.token_to_id(content)
        raise AttributeError(name)

    @property
    def vocab_size(self) -> int:
        return int(self._engine.get_vocab_size(with_added_tokens=False))

    @property
    def added_tokens_decoder(self) -> dict[int, Any]:
        return dict(sorted(self._engine.get_added_tokens_decoder().items()))

    @property
    def added_tokens_encoder(self) -> dict[str, int]:
        return {token.content: id for id, token in self.added_tokens_decoder.items()}

    @property
    def special_tokens_map(self) -> dict[str, str]:
        return {name: text for name in _SPECIAL if (text := token_text(self._file.config.get(name)))}

    @property
    def all_special_tokens(self) -> list[str]:
        extra = [token_text(entry) for entry in self._file.config.get("additional_special_tokens") or ()]
        found = [*self.special_tokens_map.values(), *(text for text in extra if text)]
        return list(dict.fromkeys(found))

    @property
    def all_special_ids(self) -> list[int]:
        return [id for text in self.all_special_tokens if (id := self._engine.token_to_id(text)) is not None]

    def get_vocab(self) -> dict[str, int]:
        return dict(self.vocab)

    def get_added_vocab(self) -> dict[str, int]:
        return self.added_tokens_encoder

    def encode(self, text: str, add_special_tokens: bool = True, **_: Any) -> list[int]:
        return self._file.encode(text, add_special=add_special_tokens)

    def decode(self, ids: Any, skip_special_tokens: bool = False, **_: Any) -> str:
        from rfctl.converter.tokenizer_vocabulary import clean_up

        ids = [int(ids)] if isinstance(ids, (int, np.integer)) else [int(id) for id in ids]
        text = str(self._engine.decode(ids, skip_special_tokens=skip_special_tokens))
        return clean_up(text) if self.clean_up_tokenization_spaces else text

    def convert_ids_to_tokens(self, ids: Any) -> Any:
        if isinstance(ids, (int, np.integer)):
            return self._engine.id_to_token(int(ids))
        return [self._engine.id_to_token(int(id)) for id in ids]

    def convert_tokens_to_ids(self, tokens: Any) -> Any:
        if isinstance(tokens, str):
            return self._engine.token_to_id(tokens)
        return [self._engine.token_to_id(token) for token in tokens]


class ModelProto:
    """The parts of a SentencePiece model that say how it was trained (sentencepiece_model.proto, 0.2)."""

    def __init__(self) -> None:
        self.trainer_spec = types.SimpleNamespace(model_type=1)
        self.normalizer_spec = types.SimpleNamespace(
            precompiled_charsmap=b"", add_dummy_prefix=True, remove_extra_whitespaces=True
        )

    def ParseFromString(self, data: bytes) -> None:
        for number, value in list_fields(data):
            if number == 2 and isinstance(value, bytes):
                for inner, kind in list_fields(value):
                    if inner == 3:
                        self.trainer_spec.model_type = kind
            elif number == 3 and isinstance(value, bytes):
                for inner, setting in list_fields(value):
                    if inner == 2:
                        self.normalizer_spec.precompiled_charsmap = setting
                    elif inner == 3:
                        self.normalizer_spec.add_dummy_prefix = bool(setting)
                    elif inner == 4:
                        self.normalizer_spec.remove_extra_whitespaces = bool(setting)


def bytes_to_unicode() -> dict[int, str]:
    """The printable character that stands for each byte in byte-level BPE (GPT-2's table)."""
    plain = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    table = {byte: chr(byte) for byte in plain}
    others = (byte for byte in range(256) if byte not in table)
    return table | {byte: chr(256 + number) for number, byte in enumerate(others)}
