"""Shape checks for the pure algorithms: a wrong shape is named before anything broadcasts."""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from typing import Any

import numpy as np
import torch
from jaxtyping import Bool, Int
from torch import Tensor


def require_matrix(name: str, tensor: Tensor, shape: Sequence[int] | None = None) -> None:
    """Check that a tensor is a real ``[batch, tokens]`` matrix, of exactly `shape` if that is given.

    Raises:
        TypeError: not a tensor.
        ValueError: another shape, or complex numbers.
    """
    if not isinstance(tensor, Tensor):
        raise TypeError(f"{name} must be a torch.Tensor of shape [batch, tokens], got {type(tensor).__name__}")
    if tensor.ndim != 2 or (shape is not None and tuple(tensor.shape) != tuple(shape)):
        wanted = "[batch, tokens]" if shape is None else f"[batch, tokens] = {list(shape)}"
        raise ValueError(f"{name} must have shape {wanted}, got {list(tensor.shape)}")
    if tensor.is_complex():
        raise ValueError(f"{name} must hold real numbers, got {tensor.dtype}")


def require_vector(name: str, tensor: Tensor) -> None:
    """Check that a tensor is a real vector ``[tokens]``.

    Raises:
        TypeError: not a tensor.
        ValueError: another shape, or complex numbers.
    """
    if not isinstance(tensor, Tensor):
        raise TypeError(f"{name} must be a torch.Tensor of shape [tokens], got {type(tensor).__name__}")
    if tensor.ndim != 1:
        raise ValueError(f"{name} must have shape [tokens], got {list(tensor.shape)}")
    if tensor.is_complex():
        raise ValueError(f"{name} must hold real numbers, got {tensor.dtype}")


def require_like(name: str, tensor: Tensor, like: Tensor) -> None:
    """Check that a tensor has the shape of another one.

    Raises:
        TypeError: not a tensor.
        ValueError: another shape, or complex numbers.
    """
    if not isinstance(tensor, Tensor):
        raise TypeError(f"{name} must be a torch.Tensor of shape {list(like.shape)}, got {type(tensor).__name__}")
    if tensor.shape != like.shape:
        raise ValueError(f"{name} must have shape {list(like.shape)}, got {list(tensor.shape)}")
    if tensor.is_complex():
        raise ValueError(f"{name} must hold real numbers, got {tensor.dtype}")


def require_column(name: str, values: Any, batch: int, device: torch.device) -> Tensor:
    """`values` as a tensor of shape ``[batch]`` on `device`; anything `torch.as_tensor` reads is accepted.

    Raises:
        ValueError: it cannot be read as numbers, or has another shape.
    """
    try:
        column = torch.as_tensor(values, device=device)
    except (TypeError, ValueError, RuntimeError) as error:
        raise ValueError(f"{name} must hold {batch} numbers, shape [batch], got {values!r}: {error}") from None
    if tuple(column.shape) != (batch,):
        raise ValueError(f"{name} must have shape [batch] = [{batch}], got {list(column.shape)}")
    return column


def sample_mask(name: str, values: Any, batch: int, device: torch.device) -> Bool[Tensor, " batch"]:
    """A mask over samples: bool, or numbers where anything but 0 means True."""
    return require_column(name, values, batch, device) != 0


def group_index(task_ids: Any, batch: int, name: str = "task_ids") -> Int[Tensor, " batch"]:
    """Number the groups in order of first appearance.

    Args:
        task_ids: one id a sample: a list or tuple of str, int or anything hashable, a NumPy array (also of
            dtype object) or a tensor. Equal ids are one group.
        batch: how many there must be.
        name: what they are called in errors.

    Returns:
        The group of each sample, numbers from 0, on the CPU.

    Raises:
        ValueError: not one id a sample, or an id that cannot be compared.

    >>> group_index(["a", "b", "a"], 3)
    tensor([0, 1, 0])
    """
    if isinstance(task_ids, (str, bytes)):
        raise ValueError(f"{name} must be one id a sample ({batch}), got the single text {task_ids!r}")
    if isinstance(task_ids, (Tensor, np.ndarray)):
        if task_ids.ndim != 1:
            raise ValueError(f"{name} must have shape [batch] = [{batch}], got {list(task_ids.shape)}")
        task_ids = task_ids.tolist()
    ids = list(task_ids)
    if len(ids) != batch:
        raise ValueError(f"{name} must be one id a sample: expected {batch}, got {len(ids)}")
    numbers: dict[Hashable, int] = {}
    try:
        return torch.tensor([numbers.setdefault(key, len(numbers)) for key in ids], dtype=torch.long)
    except TypeError as error:
        raise ValueError(f"{name} must be hashable (str, int, ...): {error}") from None
