"""The front of a runner: the OpenAI API on one port, status, probes and metrics on the other.

It holds nothing that matters: PID 1 may start it anew at any time while the engines go on.
"""
