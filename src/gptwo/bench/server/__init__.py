"""Measuring a server: many clients at once, for any that speaks OpenAI's completions."""
