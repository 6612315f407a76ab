"""Compile caches as entries of the node's store: taken from the runner that made them, checked, kept like weights."""
