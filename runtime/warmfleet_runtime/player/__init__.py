"""The fleet player: one process plays the runners of all fake nodes.

Fed by the same annotations, through the runner's own state machine, with Simulated engines on a timeline instead of
processes. Whoever calls a fake pod's address gets that runner's status and API: the operator sees no difference.
"""
