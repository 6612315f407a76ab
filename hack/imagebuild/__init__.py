"""Builds the container images, with a container engine or without one.

Read in this order: `build.py` (what is built, and when it is built anew), `layers.py` (where layers are kept),
`tree.py` (what a layer is), `dockerfile.py` (the settings of an image).
"""
