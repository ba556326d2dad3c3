"""What a bundle computes, against the model that it was made from: what ``--check`` does, a file for each kind."""
