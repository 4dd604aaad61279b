"""What `network.py` measures: this project's network, its plain twin and its peer, each in a process of its own."""
