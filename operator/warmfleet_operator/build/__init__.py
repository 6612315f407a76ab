"""Builders: one pure function per Kubernetes object the operator writes; no client in sight."""
