"""Decisions: pure functions over frozen data, `now` passed in, that return plain data and reasons in words.

Nothing here reads a clock, an environment or a network; import-linter holds that.
"""
