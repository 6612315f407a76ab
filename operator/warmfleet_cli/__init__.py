"""`warmfleet`, also `kubectl warmfleet`: what a person types. One module per subcommand; `__main__` lists them."""
