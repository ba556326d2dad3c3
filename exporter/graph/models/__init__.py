"""Graphs of whole models, written from their descriptions and a plan."""
