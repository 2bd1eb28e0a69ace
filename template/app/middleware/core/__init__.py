"""What the layers run on: the order check, the command line, settings, request data. Internal."""
