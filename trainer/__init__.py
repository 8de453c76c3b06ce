"""The learner: DA-GRPO on the log."""
