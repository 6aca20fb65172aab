"""Whether a prefix that lies outside the device is loaded or computed again."""
