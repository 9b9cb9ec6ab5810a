"""Hooks, loops and strategies that run inside a training process."""
