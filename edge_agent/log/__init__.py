"""The log: one SQLite file, one writer, and the ways to read it."""
