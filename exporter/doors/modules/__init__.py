"""Modules of torch that are traced otherwise than torch writes them, so that graphs have the operators of targets."""
