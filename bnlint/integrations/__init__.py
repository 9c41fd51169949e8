"""Integrations: the engine inside other people's programs. Each imports its own library and no other."""
