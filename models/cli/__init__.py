"""`edge-agent models` and `edge-agent adapters`."""
