"""A model as a service: many people's requests, one engine."""
