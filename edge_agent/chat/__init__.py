"""Between chat messages and tokens: templates, tools, and what constrains the output."""
