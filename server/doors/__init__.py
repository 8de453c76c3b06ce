"""The HTTP APIs: one file for each kind of endpoint."""
