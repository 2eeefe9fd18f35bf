"""The worlds of opid-gym: one package each, with the engine apart from the environment."""
