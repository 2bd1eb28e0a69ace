"""`python -m app.middleware explain`: one request, followed through the layers."""
