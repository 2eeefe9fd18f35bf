"""Figures of whole replies: sums, means and probability ratios by sample.

Pure functions of `opid_agents.algorithms.losses.LossInputs`. They need all tokens of each sample that is there, and say
so where some are missing.
"""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor

from opid_agents.algorithms.losses import LossInputs
from opid_agents.algorithms.shapes import require_like


def sample_sums(values: Float[Tensor, " tokens"], inputs: LossInputs) -> Float[Tensor, " batch"]:
    """The sum of a value over the tokens of each sample, ``[B]``; 0 for samples that are not here.

    Raises:
        ValueError: a wrong shape, or a sample of which only some tokens are here.
    """
    require_like("values", values, inputs.sample)
    batch = len(inputs.lengths)
    counts = torch.bincount(inputs.sample, minlength=batch)
    parts = ((counts != 0) & (counts != inputs.lengths)).nonzero()[:, 0].tolist()
    if parts:
        raise ValueError(
            f"sample {parts[0]} has {int(inputs.lengths[parts[0]])} tokens, but only {int(counts[parts[0]])} are here; "
            "figures of whole replies need all of them"
        )
    return torch.zeros(batch, dtype=values.dtype, device=values.device).index_add(0, inputs.sample, values)


def sample_means(values: Float[Tensor, " tokens"], inputs: LossInputs) -> Float[Tensor, " batch"]:
    """As `sample_sums`, divided by the lengths."""
    return sample_sums(values, inputs) / inputs.lengths.clamp(min=1).to(values)


def sequence_log_ratio(inputs: LossInputs) -> Float[Tensor, " batch"]:
    """Logarithm of GSPO's ratio of each reply, ``[B]`` (arXiv 2507.18071).

    It is the mean of ``log pi - log pi_old`` over the tokens of the reply.
    """
    return sample_means(inputs.log_probs - inputs.old_log_probs.detach(), inputs)
