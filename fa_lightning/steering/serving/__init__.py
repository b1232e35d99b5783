"""A steered model behind an OpenAI-compatible address, and a page that compares it with the unsteered one."""
