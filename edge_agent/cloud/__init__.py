"""The cloud: one client for any OpenAI-compatible API, its retries, breaker and streams."""
