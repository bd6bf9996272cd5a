"""The HTTP server: OpenAI's completions, scores and tokens of one model (extra: server)."""
