"""Continuous batching over llama.cpp, in one thread that owns the contexts."""
