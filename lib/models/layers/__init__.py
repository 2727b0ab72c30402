"""Layers that run at any width up to their own."""
