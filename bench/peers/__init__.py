"""The peers: what people use today. See ``base.Peer``, and ``PEERS`` for the list of them."""
