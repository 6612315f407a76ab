"""The emulator: a fleet in simulated time, decided by the operator's own `schedule()`, without a cluster.

    scenario (YAML) → world → outcome → bounds, table, picture

The world plays everything that is not the operator's decision: nodes, links, the runner's own state machine on a
timeline, and clients with their requests. Read `world.py` first.
"""
