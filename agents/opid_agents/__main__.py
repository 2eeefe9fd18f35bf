"""The command `opid-gym` as a module, which torchrun needs: ``torchrun --nproc-per-node 2 -m opid_agents train``."""

from opid_gym.cli import main

main()
