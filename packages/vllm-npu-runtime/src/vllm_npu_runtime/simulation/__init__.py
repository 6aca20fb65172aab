"""An NPU on paper: what the driver `sim` is made of. Values are PyTorch's, limits a datasheet's."""
