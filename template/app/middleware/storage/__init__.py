"""Where counts and responses are kept: in memory or in Redis. Internal."""
