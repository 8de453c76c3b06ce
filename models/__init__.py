"""Models: what can be served, where its file lies, and the adapters trained for it."""
