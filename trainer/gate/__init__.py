"""Whether a candidate serves: its value on held-out queries against what serves now."""
