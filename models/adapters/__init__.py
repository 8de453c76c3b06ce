"""Adapter versions on disk: folders that appear whole, one atomic pointer, a way back."""
