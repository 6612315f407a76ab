"""The Kubernetes API as Warmfleet's processes use it: credentials, requests, and mirrors that follow a kind."""
