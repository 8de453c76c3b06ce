"""The agent put together, and the life of one request in it."""
