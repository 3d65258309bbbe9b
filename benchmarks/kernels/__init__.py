"""Benchmarks and reports of the kernels: ahead-of-time compilation, tuning, and timings on a GPU."""
