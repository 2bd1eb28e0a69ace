"""How users prove who they are: JWT, session or API keys. Internal."""
