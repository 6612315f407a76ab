"""The operator: mirrors the cluster, decides purely, applies, and says in each status what waits and why."""
