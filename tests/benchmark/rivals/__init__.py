"""The twelve concerns as people build them today, from public libraries alone."""
