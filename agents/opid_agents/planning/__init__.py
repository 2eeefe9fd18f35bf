"""What a run will need, before it is started: memory, tokens, seconds and GPU-hours of a recipe on given machines."""
