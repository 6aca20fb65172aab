"""Refuse, never ignore: what a configuration or a request asks for and the device can't do."""
