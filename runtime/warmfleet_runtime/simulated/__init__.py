"""The Simulated engine: an OpenAI-compatible server that takes the time a real engine would take, and no weights."""
