"""The network block device protocol: the joint between sources, QEMU and images in the store."""
