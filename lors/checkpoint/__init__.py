"""Read and write checkpoints as data, one tensor at a time, in any format and naming scheme."""
