"""Recipe × description × target: what will be done to each tensor, and where its bytes lie."""
