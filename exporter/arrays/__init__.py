"""What is done with arrays and knows no model: schemes, packing, ranges, sums, files of arrays, parallel work."""
