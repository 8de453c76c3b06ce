"""Processes of this machine: whose they are, how they are watched, and children that work."""
