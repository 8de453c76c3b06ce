"""What the daemon answers, for /openapi.json: the shapes of each API, and the whole document."""
