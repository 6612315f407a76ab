"""The runner's state machine: what becomes of each engine, as a pure function of events and time.

    state, actions = step(state, event, now)

Level-triggered: whatever happened before, the engines converge to the last assignment. The supervisor carries the
actions out on processes, the fleet player on a timeline; both feed back what happened. `now` is monotonic seconds.
"""
