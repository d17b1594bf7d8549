"""Which names TensorRT has in which version: tensorrt_names.json, out of dumps of its bindings.

    python -m tests.worker.engine.tensorrt_names FOLDER > tests/worker/tensorrt_names.json

FOLDER holds a file `api-VERSION.json` for each version (and `api-rtx.json`): class → member → what
it is, a signature being a list of strings as pybind11 writes them.
"""

from __future__ import annotations

import json
import re
import sys
from pathlib import Path
from typing import Any

#: The classes that engines are built and run with.
CLASSES = (
    "Builder", "BuilderFlag", "ComputeCapability", "DataType", "IBuilderConfig", "ICudaEngine",
    "IExecutionContext", "IHostMemory", "ILogger", "INetworkDefinition", "IOptimizationProfile",
    "IProgressMonitor", "ITensor", "ITimingCache", "MemoryPoolType",
    "NetworkDefinitionCreationFlag", "OnnxParser", "ParserError", "Runtime", "TensorIOMode",
)  # fmt: skip

#: What a signature may call a class besides its name.
ALSO = {"IParserError": "ParserError"}


def facts(folder: Path) -> dict[str, Any]:
    """`versions`; for each class and member the versions that lack it; and of methods that return
    one of CLASSES which, and the names of their arguments in every version."""
    dumps = {
        path.stem.removeprefix("api-"): json.loads(path.read_text())
        for path in sorted(folder.glob("api-*.json"), key=_order)
    }
    lacking: dict[str, list[str]] = {}
    returns: dict[str, str] = {}
    arguments: dict[str, list[str]] = {}
    for name in CLASSES:
        members = {member for dump in dumps.values() for member in dump.get(name, {})}
        lacking[name] = [v for v, dump in dumps.items() if name not in dump]
        for member in sorted(members):
            if member.startswith("_") and member != "__init__":
                continue
            full = f"{name}.{member}"
            has = {
                v: dump[name][member] for v, dump in dumps.items() if member in dump.get(name, {})
            }
            lacking[full] = [v for v in dumps if v not in has]
            signatures = ["; ".join(s) for s in has.values() if isinstance(s, list)]
            if not signatures:
                continue
            named = [re.findall(r"[(,]\s*(\w+): ", signature) for signature in signatures]
            arguments[full] = [
                word for word in dict.fromkeys(named[0])
                if word != "self" and all(word in words for words in named)
            ]  # fmt: skip
            found = {_class(signature) for signature in signatures}
            if len(found) == 1 and None not in found:
                returns[full] = str(found.pop())
    return {
        "versions": list(dumps), "lacking": lacking, "returns": returns, "arguments": arguments,
    }  # fmt: skip


def _order(path: Path) -> list[int]:
    numbers = re.findall(r"\d+", path.stem)
    return [int(n) for n in numbers] or [sys.maxsize]


def _class(signature: str) -> str | None:
    """The class of CLASSES that a method returns, if it does."""
    returned = re.search(r"-> [\w.:]*?(\w+)$", signature)
    name = ALSO.get(returned[1], returned[1]) if returned else None
    return name if name in CLASSES else None


def written(found: dict[str, Any]) -> str:
    """The facts as the file has them: one line for each name."""
    parts = [f'"versions": {json.dumps(found["versions"])}']
    for part in ("lacking", "returns", "arguments"):
        lines = [f"  {json.dumps(k)}: {json.dumps(v)}" for k, v in found[part].items()]
        parts.append(f'"{part}": {{\n' + ",\n".join(lines) + "\n }")
    return "{\n " + ",\n ".join(parts) + "\n}\n"


if __name__ == "__main__":
    sys.stdout.write(written(facts(Path(sys.argv[1]))))
