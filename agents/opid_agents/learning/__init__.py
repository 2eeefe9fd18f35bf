"""Learning: from finished trajectories to an update of the policy.

The algorithms (`advantages`, `losses`, `diagnostics`) are pure functions of tensors and know no model, no
device and no file; `learner` names the combinations of them; the other modules are the stages around them.
"""
