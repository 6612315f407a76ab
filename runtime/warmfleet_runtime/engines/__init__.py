"""Engines behind one port: how each is started, watched and explained."""
