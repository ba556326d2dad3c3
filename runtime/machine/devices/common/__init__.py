"""What transports share: the protocol, errors by name, devices that see this machine's files, devices behind a link."""
