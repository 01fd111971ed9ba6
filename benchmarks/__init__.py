"""Benchmarks: the same rows through Pangzhu and through what else a user could pick, paired in one run."""
