"""Benchmarks, and the reference cloud that stands in where no cloud is configured."""
