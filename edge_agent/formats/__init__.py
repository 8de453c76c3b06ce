"""Between messages and tokens: chat templates, grammars from schemas, tool calls."""
