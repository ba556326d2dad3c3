"""What a bundle that is no language model is for, as data that exporter, runtime and apps share."""
