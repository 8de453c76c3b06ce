"""`edge-agent demo`: a small model gets better at its user's work, and at knowing when to ask."""
