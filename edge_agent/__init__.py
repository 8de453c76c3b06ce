"""The agent: engine, decision, budget, cloud, log."""

__version__ = "0.1.0"
