"""Looking at an endpoint over the network, as any client would."""
