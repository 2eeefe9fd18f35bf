"""Training: one run from its folder to its report, the five stages of OPID in between."""
