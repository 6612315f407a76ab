"""The node agent: the weight store of one node, filled from sources and shown to the node's runners."""
