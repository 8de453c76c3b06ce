"""The cloud: one client for any OpenAI-compatible API and for Anthropic's; retries, streams."""
