"""The volume through which a runner reads the node's weights: a CSI node plugin for ephemeral inline volumes.

A pod that has such a volume gets a read-only bind of `views/<pod uid>/` of the memory tier, empty at first. The agent
links into it what the pod is to read; the plugin mounts, unmounts and tidies up, and knows no entry. Kubelet calls it
at `plugins/weights.warmfleet.dev/csi.sock` below its folder, and learns of it at a socket in `plugins_registry/`.

    server.py    sockets, registration, and the sweep that removes views of pods that are gone
    node.py      the methods that kubelet calls
    requests.py  which of its requests are accepted
    targets.py   what is mounted where
"""

from warmfleet_agent.csi.node import NotReadyError, Views
from warmfleet_agent.csi.server import Plugin, serve

__all__ = ["NotReadyError", "Plugin", "Views", "serve"]
