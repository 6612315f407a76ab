"""Messages of the container storage interface and of kubelet's plugin registration; README.md says where from."""
