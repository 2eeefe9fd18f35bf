"""Bridges between the learner and other trainers; each needs the extra of its name."""
