"""gptwo: the GPT-2 family, whole."""
