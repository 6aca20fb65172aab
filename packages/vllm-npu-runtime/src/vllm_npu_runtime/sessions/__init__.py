"""Sessions: an artifact opened on a device, with KV that the runtime owns, in slots."""
