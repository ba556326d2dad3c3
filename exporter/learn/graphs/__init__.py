"""What methods learn of the float graph of any model, before it is rounded and after."""
