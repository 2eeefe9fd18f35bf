"""Trains inside TRL on as many processes as `torchrun` starts; each writes the weights it ends with."""

from __future__ import annotations

import sys
from pathlib import Path

import torch
from opid_agents.distributed import end_process
from opid_agents.interop.trl import OPIDTrainer

from tests.agents.interop.recipes import INSIDE_TRL


def main(out: Path) -> None:
    torch.set_num_threads(1)
    trainer = OPIDTrainer(INSIDE_TRL, out, save_strategy="no", disable_tqdm=True, logging_steps=1)
    trainer.train()
    rank = trainer.accelerator.process_index
    torch.save(
        {"weights": trainer.policy.model.state_dict(), "history": trainer.state.log_history}, out / f"rank-{rank}.pt"
    )
    trainer.close()


if __name__ == "__main__":
    main(Path(sys.argv[1]))
    end_process()
