"""Sampling: replies to prompts, by the model that is trained or by another engine with its weights."""
