"""Panels: fixed lists of tasks, each with the hash of its expert's transcript.

Two results can be compared only if the same games were played. A panel says which games those are, and how to prove it:
every task has the hash of what the world's expert read, did and was paid there. A machine that plays the transcripts
again and finds the same hashes plays the same games; one whose games differ is told which.
"""

from opid_gym.panel.manifest import (
    DATA_ARGUMENTS,
    Panel,
    PanelError,
    TaskList,
    find_panel,
    load_panel,
    panel_names,
    save_panel,
)
from opid_gym.panel.transcripts import Difference, Verification, make_panel, panel_tasks, verify

__all__ = [
    "DATA_ARGUMENTS",
    "Difference",
    "Panel",
    "PanelError",
    "TaskList",
    "Verification",
    "find_panel",
    "load_panel",
    "make_panel",
    "panel_names",
    "panel_tasks",
    "save_panel",
    "verify",
]
