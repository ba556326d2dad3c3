"""From logits to an answer: what is drawn, when it ends, and what of an earlier text is kept."""
