"""Type stubs of TensorRT's Python bindings, from the signatures in their docstrings.

Run by a Python that can import tensorrt_bindings (over stub libraries); prints a .pyi:  python tensorrt_stubs.py
"""

from __future__ import annotations

import ast
import enum
import re
from typing import Any

_SIGNATURE = re.compile(r"^(?:\d+\. )?(?P<name>\w+)\((?P<arguments>.*)\) -> (?P<result>.+)$", re.M)
_TYPES = (
    (r"tensorrt_bindings\.tensorrt\.", ""),
    (r"tensorrt\.tensorrt\.", ""),
    (r"typing_extensions\.Buffer|\bbuffer\b", "bytes"),
    (r"typing\.SupportsInt|collections\.abc\.\w+\[typing\.SupportsInt\]", "int"),
    (r"\bList\[", "list["),
    (r"\bTuple\[", "tuple["),
    (r"\bcapsule\b|typing_extensions\.CapsuleType|numpy\.\w+|collections\.abc\.\w+|nvinfer1::\w+|std::\w+", "Any"),
    (r"\btyping\.", ""),
    (r"nvonnxparser::IParserError", "ParserError"),
    (r"\bDims\b", "Shape"),  # tuples and lists are taken for it
    (r" = <[^>]*>", " = ..."),
)


def stub(module: Any) -> str:
    """The .pyi of a module of pybind11 classes; what has no readable signature is Any."""
    lines = ["from typing import *", "Shape = Union[Dims, tuple[int, ...], list[int]]", ""]
    for name, thing in vars(module).items():
        if name.startswith("_"):
            continue
        if isinstance(thing, type):
            lines += _class(name, thing)
        elif callable(thing):
            lines += _function(name, thing, "")
        else:
            lines.append(f"{name}: Any")
    return "\n".join(lines) + "\n"


def _class(name: str, thing: type, indent: str = "") -> list[str]:
    bases = [base.__name__ for base in thing.__bases__ if base.__module__.startswith("tensorrt_bindings")]
    lines = [f"{indent}class {name}({', '.join(bases)}):" if bases else f"{indent}class {name}:"]
    members = getattr(thing, "__members__", {})
    inner = indent + "    "
    for attribute, value in sorted(vars(thing).items()):
        if members and attribute in ("name", "value", "__init__"):
            continue
        if attribute in members:
            lines.append(f"{inner}{attribute}: {name if not indent else 'Any'}")
        elif isinstance(value, type):
            lines += _class(attribute, value, inner)
        elif attribute == "__init__" or not attribute.startswith("_"):
            lines += _function(attribute, value, inner) if callable(value) else [f"{inner}{attribute}: Any"]
    if members or issubclass(thing, enum.Enum):
        lines += [f"{inner}def __init__(self, value: int) -> None: ...", f"{inner}def __int__(self) -> int: ..."]
        lines += [f"{inner}name: str", f"{inner}value: int"]
    if name == "IHostMemory":  # by the buffer protocol
        lines.append(f"{inner}def __buffer__(self, flags: int, /) -> memoryview: ...")
    if name == "Dims":
        lines.append(f"{inner}def __iter__(self) -> Iterator[int]: ...")
    return [*lines, f"{inner}pass"]


def _function(name: str, thing: Any, indent: str) -> list[str]:
    found = []
    for match in _SIGNATURE.finditer(thing.__doc__ or ""):
        if match["name"] == name and "*args" not in match["arguments"]:
            text = f"def {name}({match['arguments']}) -> {match['result']}: ..."
            for pattern, plain in _TYPES:
                text = re.sub(pattern, plain, text)
            text = re.sub(r"\bself: \w+(\.\w+)*", "self", text)
            text = re.sub(r"(\w+: [\w.]+) = None", r"\1 | None = None", text)
            found.append(text)
    try:
        for text in found:
            ast.parse(text)
    except SyntaxError:
        found = []
    if not found:
        result = "None" if name == "__init__" else "Any"
        found = [f"def {name}({'self, ' if indent else ''}*args: Any, **kwargs: Any) -> {result}: ..."]
    overload = f"{indent}@overload\n" if len(found) > 1 else ""
    return [f"{overload}{indent}{text}" for text in found]


if __name__ == "__main__":
    import tensorrt_bindings

    print(f"__version__: str  # {tensorrt_bindings.__version__}")
    print(stub(tensorrt_bindings.tensorrt))
