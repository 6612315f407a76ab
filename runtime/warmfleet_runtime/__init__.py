"""The inside of a runner's pod.

PID 1 (`supervisor`) keeps the processes and converges to the assignment file through a pure state machine
(`machine`); the front (`front`) answers requests and tells the status; engines (`engines`) are reached on unix sockets.
"""
