"""OPID, from a starting policy to an evaluation. Minutes on two CPU cores; changes make it shorter.

python examples/opid_in_twenty_lines.py [KEY=VALUE ...]
"""

import sys

from opid_agents import change, get_recipe, run

if __name__ == "__main__":
    recipe = change(get_recipe("tiny-alfworld"), ["iterations=20", "evaluation.before=true", *sys.argv[1:]])
    result = run(recipe, "runs/opid", resume=True)  # interrupted, the same command goes on
    print(f"before: {result.before.success}")
    print(f"after:  {result.evaluation.success}")
    print(f"look at every token's advantage: opid-gym view {result.folder}")
