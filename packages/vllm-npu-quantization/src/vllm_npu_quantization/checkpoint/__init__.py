"""Whether a quantized checkpoint's files hold what its config says, before anything is loaded."""
