"""A round as figures, tables and pictures."""
