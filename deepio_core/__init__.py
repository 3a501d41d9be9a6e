"""deep-io core: the hyperpeer signaling protocol and the DEEP messages as pure state machines."""
