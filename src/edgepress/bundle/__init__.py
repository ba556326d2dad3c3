"""What a bundle says of itself, as data: manifest, states, graphs, adapters, packs."""
