"""The parts of `benchmarks/study.py` that train nothing: stored results, statistics, and the report made from them."""
