"""The contract between Warmfleet's processes: names, objects, assignments and runner status.

Everything may import this package; it imports nothing of Warmfleet.
"""
