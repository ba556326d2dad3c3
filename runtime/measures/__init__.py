"""Speed, memory and accuracy of a bundle, here and in an emulated machine, and its instructions counted."""
