"""What could be wrong with an installation, checked piece by piece; nothing is changed."""
