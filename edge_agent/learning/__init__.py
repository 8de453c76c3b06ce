"""The daemon's side of training: when a round starts, what it wrote, whether it helped."""
