"""How a bundle is opened on this machine: threads, cores, spinning and pieces of a prompt, chosen by measuring."""
