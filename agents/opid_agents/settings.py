"""The base of every record of settings: checked when made, never changed afterwards."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict


class Settings(BaseModel):
    """Settings whose fields say what they mean; unknown names, wrong types and numbers that are not finite are errors.

    >>> class Speed(Settings):
    ...     limit: float = 1.0
    >>> Speed(limit=2).limit
    2.0
    """

    model_config = ConfigDict(extra="forbid", frozen=True, validate_default=True, allow_inf_nan=False)
