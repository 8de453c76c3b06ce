"""Finds the running daemon and talks to it."""
