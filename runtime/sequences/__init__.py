"""Sources into targets: bundles of an encoder and a decoder, for speech, translation and summaries."""
