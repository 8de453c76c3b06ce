"""From the log to what is trained on."""
