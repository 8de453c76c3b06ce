"""The daemon's side of training: when it runs, what it did, and when to take it back."""
