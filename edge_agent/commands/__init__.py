"""The commands of the agent; each file is one command, imported only when it runs."""
