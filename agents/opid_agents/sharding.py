"""A model in parts, one in each process: PyTorch's FSDP2 (`torch.distributed.fsdp.fully_shard`).

Weights, gradients and the optimizer's state are divided; a layer's weights come together while it computes. Between two
updates the model only plays and scores, each process at its own pace: then all weights are gathered once
(`Shards.gathered`).
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.checkpoint.state_dict import (
    StateDictOptions,
    get_model_state_dict,
    get_state_dict,
    set_state_dict,
)
from torch.distributed.checkpoint.state_dict_loader import load
from torch.distributed.checkpoint.state_dict_saver import async_save
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import (
    FSDPModule,
    MixedPrecisionPolicy,
    fully_shard,
    register_fsdp_forward_method,
)
from torch.distributed.tensor import DTensor, distribute_tensor
from transformers import AutoModelForCausalLM, PreTrainedModel
from transformers.modeling_layers import GradientCheckpointingLayer

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Shards:
    """A model that was divided. All methods but `compute` must be called by all processes.

    Attributes:
        model: the model; outside `gathered` and `compute` its parameters are this process's parts, in float32.
        dtype: precision that it computes and is saved in.
        writers: in which the processes speak of a checkpoint that is being written; None: in that of the run.
        accumulates: each process adds up whole gradients over the passes of an update, in float32, and they are
            exchanged once; False, where these would take more than a quarter of a GPU: after each pass, as parts.
    """

    model: PreTrainedModel
    dtype: torch.dtype
    accumulates: bool = True
    writers: dist.ProcessGroup | None = None

    @classmethod
    def of(cls, model: PreTrainedModel) -> Shards:
        """Divide a model that every process has, in place: each layer, and what is left, by itself.

        Raises:
            ValueError: its layers are not known.
        """
        layers = [module for module in model.modules() if isinstance(module, GradientCheckpointingLayer)]
        if not layers:
            raise ValueError(f"parallel=shard: the layers of {model.config.model_type!r} are not known; use replicate")
        dtype = model.dtype
        mesh = init_device_mesh(model.device.type, (dist.get_world_size(),))
        # Small steps would vanish in the rounding of lower precisions, and so would small gradients in their sums.
        precision = MixedPrecisionPolicy(None if dtype == torch.float32 else dtype, torch.float32)
        for module in (*layers, model):
            fully_shard(module.float(), mesh=mesh, mp_policy=precision)
        shards = cls(model, dtype, _has_room(model), dist.new_group(backend="gloo"))
        for part in shards._parts():
            # A loss is divided by the whole batch's tokens, so gradients are added up and not averaged.
            part.set_gradient_divide_factor(1.0)
            part.set_force_sum_reduction_for_comms(True)
        # Whatever uses weights must do so within a forward method of the whole, or they are not together and the
        # gradients of those outside the layers are never added up.
        model.compute_within = lambda computation: _without_views(computation())
        register_fsdp_forward_method(model, "compute_within")
        return shards

    def compute(self, computation: Callable[[], T]) -> T:
        """The result of a computation with the model; with gradients it must be a tensor or a tuple of tensors.

        Outside `gathered` all processes must compute equally often.
        """
        result: T = self.model.compute_within(computation)
        return result

    def exchange_gradients(self, now: bool) -> None:
        """Say before a pass with gradients whether those of this and the former passes are exchanged after it.

        It has to be so for the last pass before the optimizer steps.
        """
        root = self.model
        assert isinstance(root, FSDPModule)
        root.set_requires_gradient_sync(now or not self.accumulates)

    @contextmanager
    def gathered(self) -> Iterator[None]:
        """As long as this lasts each process has all weights and computes, without gradients, whenever it likes."""
        parts = self._parts()
        for part in parts:
            part.set_reshard_after_forward(False, recurse=False)
            part.unshard()
        try:
            yield
        finally:
            for part in parts:
                part.reshard()
                part.set_reshard_after_forward(part is not self.model, recurse=False)

    def whole_model(self) -> PreTrainedModel | None:
        """A copy of the whole model in the first process, in the CPU's memory; None in the others."""
        options = StateDictOptions(full_state_dict=True, cpu_offload=True)
        state: dict[str, Any] = get_model_state_dict(self.model, options=options)
        if dist.get_rank() != 0:
            return None
        whole: PreTrainedModel = AutoModelForCausalLM.from_config(self.model.config, dtype=self.dtype)
        whole.load_state_dict(state)
        whole.generation_config = self.model.generation_config
        return whole

    def begin_to_save(self, folder: Path, optimizer: torch.optim.Optimizer) -> Future[None]:
        """Write model and optimizer, as they are now, by `torch.distributed.checkpoint`; each process writes its part.

        Everything is copied before this returns. Then a thread writes, so that the run can go on, but it must have
        finished before this is called again.
        """
        weights, state = get_state_dict(self.model, optimizer)
        found = {"model": weights, "optimizer": state}
        writing = async_save(found, checkpoint_id=folder, process_group=self.writers)
        assert isinstance(writing, Future)
        return writing

    def load_optimizer(self, state: dict[str, Any], optimizer: torch.optim.Optimizer) -> None:
        """Give a fresh optimizer of the parts the state that one of the whole weights had; every process has it."""
        weights = [weight for group in optimizer.param_groups for weight in group["params"]]
        for weight, master in zip(weights, state.pop("masters", ()), strict=False):
            weight.detach().copy_(_part_like(weight, master))
        for number, values in state["state"].items():
            weight = weights[number]
            values.update({k: _part_like(weight, v) for k, v in values.items() if v.shape == weight.shape})
        optimizer.load_state_dict(state)

    def _parts(self) -> list[FSDPModule]:
        return [module for module in self.model.modules() if isinstance(module, FSDPModule)]


def _has_room(model: PreTrainedModel) -> bool:
    """Whether whole gradients in float32 take no more than a quarter of the GPU."""
    if model.device.type != "cuda":
        return True
    return 4 * model.num_parameters() <= torch.cuda.get_device_properties(model.device).total_memory / 4


def load_parts(folder: Path, model: nn.Module, optimizer: torch.optim.Optimizer) -> None:
    """Read what `Shards.begin_to_save` wrote, by however many processes, into a model, whole or divided, in place."""
    weights, state = get_state_dict(model, optimizer)
    found: dict[str, Any] = {"model": weights, "optimizer": state}
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "torch.distributed is disabled")  # alone: that is meant
        load(found, checkpoint_id=folder)
    set_state_dict(model, optimizer, model_state_dict=found["model"], optim_state_dict=found["optimizer"])


def _without_views(result: Any) -> Any:
    """FSDP hangs hooks on the results of a forward method, which an operation in place on a view would drop."""
    if isinstance(result, tuple):
        return tuple(map(_without_views, result))
    return result.clone() if isinstance(result, Tensor) and result._is_view() else result


def _part_like(weight: Tensor, whole: Tensor) -> Tensor:
    """This process's part of a tensor that it has whole, divided as a weight is."""
    assert isinstance(weight, DTensor)
    return distribute_tensor(whole.to(weight.device), weight.device_mesh, weight.placements, src_data_rank=None)
