"""The benchmark harness: any agents, any worlds, every task exactly once a seed, and tables with intervals.

`opid_gym.bench.harness.run` plays, in processes that are replaced when an agent raises or hangs; `results` are the
records it writes, `statistics` pure functions of them, `report` the leaderboard and `figures` the pictures.
"""
