"""Between the device's cache and host memory."""
