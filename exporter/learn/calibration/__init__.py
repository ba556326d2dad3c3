"""Calibration: text through the model one decoder layer at a time, and the methods that learn from it.

``network`` computes a decoder in torch from its description; ``engine`` streams the layers and calls the methods;
``store`` keeps what is done, so that a killed run resumes. Everything here needs torch.
"""
