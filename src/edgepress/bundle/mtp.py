"""What a graph that predicts one token further is called, and its edges beside tokens, mask, states and logits.

It is the drafter ``mtp`` of a bundle (:mod:`edgepress.bundle.drafters`): one layer over the model's own data file,
embedding and head included. It reads what the model's final norm gives of each token, which the model's graph has as an
output in such a bundle.
"""

DRAFTER = "mtp"
MTP_FILE = "mtp.onnx"
HIDDEN = "hidden"
"""The model's output and this graph's input: what the final norm gives, (batch, sequence, hidden) float32."""
HIDDEN_NEXT = "hidden_next"
"""This graph's output that is :data:`HIDDEN` for a token further."""
