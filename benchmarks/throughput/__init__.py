"""The parts of ``env_throughput.py``: one module an environment, and what they share."""
