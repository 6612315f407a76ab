"""Serves `external.metrics.k8s.io`, so that HorizontalPodAutoscalers hear what the operator wants of each model."""
