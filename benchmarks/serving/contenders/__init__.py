"""The engines that are compared; each module has a class `Contender`."""
