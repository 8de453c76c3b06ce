"""One round of training: what it works with, how far it is, how it goes on."""
