"""Training state as named tensors and JSON: nested dicts, lists and tuples come back as they were."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from inkwash.checkpoint.errors import CheckpointError


def flatten(state: Any) -> tuple[dict[str, Tensor], Any]:
    """Split nested dicts, lists and tuples of tensors, numbers, strings and None into named tensors and a JSON value.

    `unflatten` gives back an equal state: key types (optimisers number their parameters), tuples, dtypes, 0-dim
    tensors, strides of dense tensors (channels-last), infinities, and tensors that occur twice as one tensor.
    A state dict's names become the tensors' names. Gradients, devices and strides of views are not kept.
    Raises `ValueError` naming the entry for a NaN or any other type.
    """
    tensors: dict[str, Tensor] = {}
    known: dict[tuple[Any, ...], Any] = {}

    def pack(value: Any, path: str) -> Any:
        if value is None or isinstance(value, bool | int | str):
            return value
        if isinstance(value, float):
            if value != value:
                raise ValueError(f"{path or 'state'} is NaN, which a checkpoint never holds: save the last good state.")
            return {"$float": repr(value)} if value in (float("inf"), float("-inf")) else value
        if isinstance(value, Tensor):
            return pack_tensor(value, path)
        inner = f"{path}." if path else ""
        if isinstance(value, dict):
            if all(isinstance(key, str) and not key.startswith("$") for key in value):
                return {key: pack(item, inner + key) for key, item in value.items()}
            return {"$dict": [[pack(key, inner + "key"), pack(item, f"{inner}{key}")] for key, item in value.items()]}
        if isinstance(value, list | tuple):
            items = [pack(item, f"{inner}{i}") for i, item in enumerate(value)]
            return items if isinstance(value, list) else {"$tuple": items}
        raise ValueError(
            f"{path or 'state'} is a {type(value).__name__}; a checkpoint holds tensors, numbers, strings, None "
            "and dicts, lists and tuples of them. Convert it first."
        )

    def pack_tensor(value: Tensor, path: str) -> Any:
        # Equal places in memory are one tensor (tied weights); empty tensors all share the null pointer.
        where = (value.device, value.data_ptr(), value.dtype, value.shape, value.stride(), value.is_conj())
        if value.numel() and where in known:
            return known[where]
        name, n = path or "tensor", 2
        while name in tensors:  # {"a": {"b": ..}, "a.b": ..}
            name, n = f"{path}#{n}", n + 1
        tensors[name] = value.detach()
        tree: dict[str, Any] = {"$tensor": name}
        if value.stride() != torch.empty(value.shape, device="meta").stride() and _dense(value):
            tree["stride"] = list(value.stride())
        known[where] = tree
        return tree

    return tensors, pack(state, "")


def unflatten(tensors: Mapping[str, Tensor], tree: Any) -> Any:
    """Put together again what `flatten` split. Raises `CheckpointError` naming a tensor that is not there."""
    restored: dict[str, Tensor] = {}

    def unpack(value: Any) -> Any:
        if isinstance(value, list):
            return [unpack(item) for item in value]
        if not isinstance(value, dict):
            return value
        if "$tensor" in value:
            name = value["$tensor"]
            if name not in tensors:
                raise CheckpointError(f"The state needs a tensor {name!r}, which is not stored beside it.")
            if name not in restored:
                x = tensors[name]
                if "stride" in value:
                    x = torch.empty_strided(x.shape, value["stride"], dtype=x.dtype, device=x.device).copy_(x)
                restored[name] = x
            return restored[name]
        if "$float" in value:
            return float(value["$float"])
        if "$tuple" in value:
            return tuple(unpack(item) for item in value["$tuple"])
        if "$dict" in value:
            return {unpack(key): unpack(item) for key, item in value["$dict"]}
        return {key: unpack(item) for key, item in value.items()}

    return unpack(tree)


def _dense(x: Tensor) -> bool:
    """Whether x's elements fill its memory without gaps or overlap, in some order of its axes."""
    expected = 1
    for stride, size in sorted(zip(x.stride(), x.shape, strict=True)):
        if size == 0:
            return False
        if size > 1 and stride != expected:
            return False
        expected *= size
    return True
