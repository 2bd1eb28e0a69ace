"""The tests of the template: what it asks, what it renders, what it updates."""
