"""The command `opid-gym` as a module, which torchrun needs: ``torchrun --nproc-per-node 2 -m opid_agents train``."""

import os

from opid_gym.cli import main

try:
    main()
except SystemExit as end:
    if "WORLD_SIZE" in os.environ:  # torchrun's; other commands need no PyTorch
        from opid_agents.distributed import end_process

        end_process(end.code)
    raise
