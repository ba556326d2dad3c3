"""What a pruned graph is trained on, and how."""
