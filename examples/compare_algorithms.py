"""Do two algorithms differ? The same start, the same tasks, the same random streams; seeds are what is paired.

    python examples/compare_algorithms.py [KEY=VALUE ...]

Two seeds say nothing about a method. `benchmarks/study.py` does this properly, with controls and ten seeds.
"""

import sys
from statistics import fmean

from opid_agents import change, get_recipe, run

ALGORITHMS = ("grpo", "opid")
SEEDS = range(2)

if __name__ == "__main__":
    recipe = change(get_recipe("tiny-alfworld"), ["iterations=10", *sys.argv[1:]])
    success = {}
    for seed in SEEDS:
        for algorithm in ALGORITHMS:
            chosen = change(recipe, {"algorithm": algorithm, "seed": seed})
            result = run(chosen, f"runs/compare/{algorithm}-{seed}", resume=True)
            success[algorithm, seed] = result.evaluation.success.estimate
            print(f"seed {seed} {algorithm}: {success[algorithm, seed]:.1%}")
    differences = [success["opid", seed] - success["grpo", seed] for seed in SEEDS]
    print(f"opid less grpo: {100 * fmean(differences):+.1f} points over {len(SEEDS)} seeds")
