"""The zygote: one process that has imported vLLM and turns copies of itself into engines.

    PID 1 ──socket pair── zygote (vLLM imported, one thread, no device touched)
      │                     └ fork ─ fork ┐   the process between them ends at once, so that
      └── engine's leader ◀───────────────┘   PID 1 inherits the leader, which outlives the zygote

`protocol` is what the two say to each other, `private` every private name of vLLM, `environment` what of an engine's
environment can still take effect after the imports, `child` the way from a copy to an engine.
"""
